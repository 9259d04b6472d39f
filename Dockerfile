# Burnish in containers: train (CUDA), train-cpu, export, serve (CPU) and serve-cuda.
#
#   docker build --target serve -t burnish-serve .
#
# Layers that change least come first and the sources last, so that a change of code rebuilds in seconds. All Python
# packages are in one venv, /opt/venv, which each image fills in place, so that images share their common layers.
# docs/containers.md explains the build arguments, and how to pin the base to a digest.
ARG BASE_IMAGE=python:3.11.15-slim-bookworm

# wheels of torch for the CPU, used instead of the network: --build-context wheels=DIR names a folder
FROM scratch AS wheels

# ---- base: Python, OpenMP's runtime, an empty venv, no root ------------------------------------------
FROM ${BASE_IMAGE} AS base
RUN apt-get update -qq \
 && apt-get install -y -qq --no-install-recommends libgomp1 >/dev/null \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/*
# /cache is writable by any user: fetched models, checkpoints converted from GGUF files, compiled kernels
RUN python3 -m venv --without-pip /opt/venv \
 && mkdir -p /app/runs /app/data \
 && install -d -m 1777 /cache /cache/huggingface /cache/burnish
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp USER=burnish \
    XDG_CACHE_HOME=/cache BURNISH_CACHE=/cache/burnish HF_HOME=/cache/huggingface \
    HF_HUB_DISABLE_TELEMETRY=1
# pip during the build: the base image's pip fills the venv; every set is pinned completely, so nothing is resolved
ARG PIP_PYTHON=/opt/venv/bin/python PIP_CACHE_DIR=/pip-cache PIP_NO_DEPS=1 PIP_QUIET=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /app

# ---- llama.cpp: built from the pinned source archive; only what runs is kept -----------------------------------------
FROM ${BASE_IMAGE} AS toolchain
RUN apt-get update -qq \
 && apt-get install -y -qq --no-install-recommends g++ make binutils >/dev/null \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY requirements/llama.txt requirements/
COPY deploy/amx.cmake deploy/amx_tile_config.h deploy/
COPY tools/build_llama.py tools/llama_key.py tools/selftest_llama.py tools/tiny_gguf.py deploy/stage_llama.sh deploy/llama.cmake tools/
ENV CMAKE_ARGS=-DCMAKE_PROJECT_llama.cpp_INCLUDE=/build/tools/llama.cmake

FROM toolchain AS llama
# all: one library for each CPU generation, chosen at start; v3: AVX2; native: only CPUs like the one that builds
ARG LLAMA_CPU=all
RUN --mount=type=cache,id=burnish-llama,target=/root/.cache,sharing=locked \
    python3 tools/build_llama.py --cpu "${LLAMA_CPU}" --wheel-only /wheel \
 && sh tools/stage_llama.sh /wheel /llama

# ---- serve: no torch, no compiler --------------------------------------------------------------------------------------
FROM base AS serve-packages
COPY requirements/serve.txt requirements/
RUN --mount=type=cache,id=burnish-pip,target=/pip-cache \
    pip install -r requirements/serve.txt \
 && find /opt/venv/lib -type d -name tests -prune -exec rm -rf {} + \
 && rm -rf $(find /opt/venv/lib -path '*/site-packages/openai/*' -name __pycache__ -o -path '*/site-packages/pygments/*' -name __pycache__)

FROM serve-packages AS serve
RUN --mount=type=bind,from=llama,source=/llama,target=/llama sh /llama/install.sh site
COPY pyproject.toml .
COPY burnish burnish
COPY serve serve
COPY deploy/healthcheck.py /opt/healthcheck.py
RUN python -m compileall -q burnish serve
ARG BURNISH_COMMIT=
# import from /app and the venv only, never from the working directory
ENV BURNISH_COMMIT=${BURNISH_COMMIT} PYTHONSAFEPATH=1 PYTHONPATH=/app
# whoever starts the container publishes the port; serve requires a key or ALLOW_REMOTE before it listens
ENV BURNISH_SERVE_HOST=0.0.0.0
EXPOSE 8000
USER 10001:10001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --retries=3 --start-period=10m --start-interval=500ms \
    CMD ["/opt/venv/bin/python", "-I", "-S", "/opt/healthcheck.py"]
ENTRYPOINT ["python", "-m", "serve"]

# ---- serve-cuda: serve with llama.cpp for NVIDIA GPUs ------------------------------------------------
FROM toolchain AS cuda
COPY requirements/cuda-build.txt requirements/serve-cuda.txt requirements/
# the packages lack the unversioned names that linkers look for, and libcuda, which belongs to the driver: stub it
RUN --mount=type=cache,id=burnish-pip,target=/pip-cache \
    python3 -m pip --cache-dir /pip-cache install --quiet --root-user-action=ignore --no-deps --target /cuda -r requirements/cuda-build.txt \
 && cd /cuda/nvidia/cu13 \
 && for library in cudart cublas cublasLt; do ln -s lib${library}.so.13 lib/lib${library}.so; done \
 && mkdir -p lib/stubs && echo | g++ -shared -x c - -Wl,-soname,libcuda.so.1 -o lib/stubs/libcuda.so \
 && ln -s lib lib64
ENV CUDACXX=/cuda/nvidia/cu13/bin/nvcc CUDAToolkit_ROOT=/cuda/nvidia/cu13

FROM cuda AS llama-cuda
ARG LLAMA_CPU=all
# 75 Turing, 80 A100, 86 RTX 30, 89 RTX 40 and L4, 90 H100, 120 RTX 50; fewer compile faster
ARG CUDA_ARCHS="75;80;86;89;90;120"
RUN --mount=type=cache,id=burnish-llama,target=/root/.cache,sharing=locked \
    python3 tools/build_llama.py --cpu "${LLAMA_CPU}" --cuda "${CUDA_ARCHS}" --wheel-only /wheel \
 && sh tools/stage_llama.sh /wheel /llama

FROM serve-packages AS serve-cuda
COPY requirements/serve-cuda.txt requirements/
RUN --mount=type=cache,id=burnish-pip,target=/pip-cache \
    env -u PIP_PYTHON pip install --target /opt/cuda -r requirements/serve-cuda.txt
RUN --mount=type=bind,from=llama-cuda,source=/llama,target=/llama sh /llama/install.sh site
# which devices and driver libraries the NVIDIA Container Toolkit mounts
ENV LD_LIBRARY_PATH=/opt/cuda/nvidia/cu13/lib NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY pyproject.toml .
COPY burnish burnish
COPY serve serve
COPY deploy/healthcheck.py /opt/healthcheck.py
RUN python -m compileall -q burnish serve
ARG BURNISH_COMMIT=
# import from /app and the venv only, never from the working directory
ENV BURNISH_COMMIT=${BURNISH_COMMIT} PYTHONSAFEPATH=1 PYTHONPATH=/app
ENV BURNISH_SERVE_HOST=0.0.0.0
EXPOSE 8000
USER 10001:10001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --retries=3 --start-period=10m --start-interval=500ms \
    CMD ["/opt/venv/bin/python", "-I", "-S", "/opt/healthcheck.py"]
ENTRYPOINT ["python", "-m", "serve"]

# ---- torch for the CPU, shared by export and train-cpu -----------------------------------------------------------------
FROM base AS torch-cpu
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY requirements/torch.txt requirements/
RUN --mount=type=cache,id=burnish-pip,target=/pip-cache --mount=type=bind,from=wheels,target=/wheels \
    { pip install --no-index --find-links /wheels -r requirements/torch.txt 2>/dev/null \
      || pip install --index-url "${TORCH_INDEX}" -r requirements/torch.txt; } \
 && rm -rf /opt/venv/lib/python3*/site-packages/torch/include /opt/venv/lib/python3*/site-packages/torch/bin/*test* \
 && find /opt/venv/lib -name '*.a' -delete

FROM torch-cpu AS export-packages
COPY requirements/export.txt requirements/quickstart.txt requirements/
# drop bitsandbytes' GPU libraries and the packages' own tests
RUN --mount=type=cache,id=burnish-pip,target=/pip-cache \
    pip install -r requirements/export.txt -r requirements/quickstart.txt \
 && find /opt/venv/lib -path '*/bitsandbytes/*' -name '*.so' ! -name '*_cpu.so' -delete \
 && find /opt/venv/lib -type d -name tests -prune -exec rm -rf {} +

FROM export-packages AS export
RUN --mount=type=bind,from=llama,source=/llama,target=/llama sh /llama/install.sh site converter
COPY pyproject.toml .
COPY burnish burnish
COPY export export
RUN python -m compileall -q burnish export
ARG BURNISH_COMMIT=
# import from /app and the venv only, never from the working directory
ENV BURNISH_COMMIT=${BURNISH_COMMIT} PYTHONSAFEPATH=1 PYTHONPATH=/app
USER 10001:10001
ENTRYPOINT ["python", "-m", "export"]
CMD ["run"]

FROM export-packages AS train-cpu
COPY requirements/train.txt requirements/
RUN --mount=type=cache,id=burnish-pip,target=/pip-cache \
    pip install -r requirements/train.txt \
 && find /opt/venv/lib -type d -name tests -prune -exec rm -rf {} +
# llama.cpp reads the tokenizer of a GGUF base; its converter is needed to compare ids before the first step
RUN --mount=type=bind,from=llama,source=/llama,target=/llama sh /llama/install.sh site converter
COPY configs configs
COPY examples examples
COPY pyproject.toml .
COPY burnish burnish
COPY train train
RUN python -m compileall -q burnish train
ARG BURNISH_COMMIT=
# import from /app and the venv only, never from the working directory
ENV BURNISH_COMMIT=${BURNISH_COMMIT} PYTHONSAFEPATH=1 PYTHONPATH=/app
USER 10001:10001
ENTRYPOINT ["python", "-m", "train"]
CMD ["--help"]

# ---- train: CUDA; torch brings the CUDA libraries, the NVIDIA Container Toolkit the driver --------------------------------
FROM base AS train
# Triton compiles at run time; the base image has Python's headers
RUN apt-get update -qq \
 && apt-get install -y -qq --no-install-recommends gcc libc6-dev >/dev/null \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/*
COPY requirements/torch.txt requirements/
COPY requirements/train-cuda.txt requirements/
# two calls: pip requires a hash for every package as soon as one has a hash, and torch has none
RUN --mount=type=cache,id=burnish-pip,target=/pip-cache \
    pip install -r requirements/torch.txt \
 && pip install -r requirements/train-cuda.txt
COPY requirements/train.txt requirements/quickstart.txt requirements/
RUN --mount=type=cache,id=burnish-pip,target=/pip-cache \
    pip install -r requirements/train.txt -r requirements/quickstart.txt
RUN --mount=type=bind,from=llama,source=/llama,target=/llama sh /llama/install.sh site converter
# generated code of unsloth and kernels of Triton and torch go into the cache, which outlives the container
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    TRITON_CACHE_DIR=/cache/burnish/triton TORCHINDUCTOR_CACHE_DIR=/cache/burnish/inductor \
    UNSLOTH_COMPILE_LOCATION=/cache/burnish/unsloth UNSLOTH_DISABLE_STATISTICS=1
COPY configs configs
COPY examples examples
COPY pyproject.toml .
COPY burnish burnish
COPY train train
RUN python -m compileall -q burnish train
ARG BURNISH_COMMIT=
# import from /app and the venv only, never from the working directory
ENV BURNISH_COMMIT=${BURNISH_COMMIT} PYTHONSAFEPATH=1 PYTHONPATH=/app
USER 10001:10001
ENTRYPOINT ["python", "-m", "train"]
CMD ["--help"]
