#!/bin/sh
# Unpack the llama.cpp wheel and keep what is needed at run time (in an image's build stage).
# stage_llama.sh WHEEL_DIR TARGET
set -eu
wheel=$1 target=$2
python3 -m pip --disable-pip-version-check install --quiet --no-deps --target "$target/site" "$wheel"/llama_cpp_python-*.whl
lib=$target/site/llama_cpp/lib
rm -rf "$target/site/llama_cpp/include" "$target/site/llama_cpp/server" "$lib/cmake" "$lib/pkgconfig" "$target/site/bin" \
  "$lib"/libllama-common.so*
# a wheel has each library three times, under its three names; two loaded files would be two copies in memory, each with
# its own list of backends: keep the file that dependants ask for (SONAME), and link the plain name to it
for plain in "$lib"/lib*.so; do
  soname=$(readelf -d "$plain" | sed -n 's/.*(SONAME).*\[\(.*\)\]/\1/p')
  # a backend of a portable build has only one name
  if [ -z "$soname" ] || [ ! -e "$lib/$soname" ] || [ "$lib/$soname" = "$plain" ]; then continue; fi
  for copy in "$plain".*; do
    if [ "$copy" != "$lib/$soname" ]; then rm -f "$copy"; fi
  done
  ln -sf "$soname" "$plain"
done
find "$lib" -type f -exec strip --strip-unneeded {} +
cp -r "$wheel/converter" "$target/converter"
sed -n 's/^llama-cpp-python==\([^ ]*\).*/llama-cpp-python \1/p' requirements/llama.txt > "$target/converter/VERSION"
# an image installs it into its venv with: install.sh site [converter]
cat > "$target/install.sh" <<'END'
set -eu
for part in "$@"; do
  case $part in
    site) cp -r --preserve=mode,timestamps,links /llama/site/. "$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" ;;
    converter) mkdir -p /opt/venv/share/burnish && cp -r --preserve=timestamps /llama/converter /opt/venv/share/burnish/llama.cpp ;;
  esac
done
END
