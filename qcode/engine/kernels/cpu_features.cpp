// Which build of the kernels this CPU can run. Compiled for the baseline, so it may run anywhere.

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace {

#if defined(__aarch64__) && defined(__linux__)

// Bits of the kernel's documentation, "ARM64 ELF hwcaps"; old headers lack the names.
bool has_dot_product() { return getauxval(AT_HWCAP) >> 20 & 1; }
bool has_mixed_dot_product() { return getauxval(AT_HWCAP2) >> 13 & 1; }

#elif defined(__aarch64__) && defined(__APPLE__)

bool is_set(const char* name) {
    int value = 0;
    size_t size = sizeof value;
    return sysctlbyname(name, &value, &size, nullptr, 0) == 0 && value != 0;
}
bool has_dot_product() { return is_set("hw.optional.arm.FEAT_DotProd"); }
bool has_mixed_dot_product() { return is_set("hw.optional.arm.FEAT_I8MM"); }

#elif defined(__aarch64__)

bool has_dot_product() { return false; }
bool has_mixed_dot_product() { return false; }

#endif

}  // namespace

extern "C" const char* qcode_best_variant() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                      __builtin_cpu_supports("f16c");
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
    if (avx2 && avx512) return "avx512";
    if (avx2) return "avx2";
#elif defined(__aarch64__)
    if (has_dot_product()) return has_mixed_dot_product() ? "neon_i8mm" : "neon";
#endif
    return "portable";
}
