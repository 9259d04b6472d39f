# llama-cpp-python forces llama.cpp's helper library on; nothing here uses it, and it is two fifths of the files to compile
set(LLAMA_BUILD_COMMON OFF)
