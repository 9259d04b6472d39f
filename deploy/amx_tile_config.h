/* Forced into every C and C++ file of ggml by amx.cmake (-include).
 *
 * GCC 11 and 12, and 13 in part, tell the optimizer that ldtilecfg reads 8 bytes of the tile configuration (GCC PR
 * target/114098). It reads 64: the stores of the other 56 are eliminated, the configuration that the CPU loads is not
 * valid, and the next tile instruction raises SIGILL. Here the operands are the whole 64 bytes, which is right for every
 * release before 14.
 *
 * Files that are not compiled for AMX, other compilers and other CPUs see nothing of this. */
#ifndef BURNISH_AMX_TILE_CONFIG_H
#define BURNISH_AMX_TILE_CONFIG_H

#if defined(__GNUC__) && __GNUC__ < 14 && !defined(__clang__) && defined(__x86_64__) && defined(__AMX_TILE__)

/* before the macros: it defines functions of these names, and its own guard makes later includes empty */
#include <immintrin.h>

static __inline __attribute__((__always_inline__, __unused__)) void burnish_tile_loadconfig(const void *config)
{
    __asm__ volatile("ldtilecfg\t%X0" : : "m"(*(const char(*)[64])config));
}

static __inline __attribute__((__always_inline__, __unused__)) void burnish_tile_storeconfig(void *config)
{
    __asm__ volatile("sttilecfg\t%X0" : "=m"(*(char(*)[64])config));
}

#define _tile_loadconfig(config) burnish_tile_loadconfig(config)
#define _tile_storeconfig(config) burnish_tile_storeconfig(config)

#endif
#endif
