#include "kernel/module.hpp"

#include "base/handle.hpp"

#include <fmt/format.h>
#include <libkmod.h>
#include <sys/utsname.h>

#include <array>
#include <cerrno>
#include <cstdarg>
#include <cstring>

namespace ctcached {

namespace fs = std::filesystem;

namespace {

struct Words {
    int error;
    const char* text;
};
constexpr std::array words{
    Words{ENOENT, "it is not installed for the running kernel"},
    Words{ENOSYS, "this kernel has no loadable modules"},
    Words{EKEYREJECTED, "its signature is refused (EKEYREJECTED)"},
    Words{ENOKEY, "it is not signed with a key that this kernel knows (ENOKEY)"},
    Words{EPERM, "loading modules is not allowed: no CAP_SYS_MODULE, modules are locked down, or "
                 "kernel.modules_disabled is set"},
    Words{ENOEXEC, "it was not built for this kernel (ENOEXEC; the kernel's log says more)"},
    Words{EINVAL, "the kernel takes it for no module of its own, or refuses its parameters (EINVAL)"},
};

// libkmod writes to stderr what it also returns.
void say_nothing(void*, int, const char*, int, const char*, const char*, va_list) {}

} // namespace

std::string explain_load(int error) {
    for (const Words& row : words)
        if (row.error == error) return row.text;
    const char* text = strerrordesc_np(error);
    return text ? std::string(text) : fmt::format("error {}", error);
}

Result<void> load_module(const std::string& name, const fs::path& root) {
    const auto refused = [&](int error) {
        return std::unexpected(Failure{error, fmt::format("module {}: {}", name, explain_load(error))});
    };
    std::error_code ignored; // NOLINT(bugprone-unused-local-non-trivial-variable): absent is the answer, not an error
    if (!fs::exists(root / "proc/modules", ignored)) return refused(ENOSYS);
    utsname system{};
    if (uname(&system) != 0) return failure(errno, "uname");
    const std::string folder = root / "lib/modules" / static_cast<const char*>(system.release);
    const Handle<kmod_ctx, kmod_unref> context(kmod_new(folder.c_str(), nullptr));
    if (!context) return refused(ENOMEM);
    kmod_set_log_fn(context.get(), say_nothing, nullptr);
    kmod_module* found = nullptr;
    if (const int error = kmod_module_new_from_name(context.get(), name.c_str(), &found); error < 0)
        return refused(-error);
    const Handle<kmod_module, kmod_module_unref> module(found);
    if (!kmod_module_get_path(module.get()) && kmod_module_get_initstate(module.get()) < 0) return refused(ENOENT);
    const int error =
        kmod_module_probe_insert_module(module.get(), KMOD_PROBE_APPLY_BLACKLIST, nullptr, nullptr, nullptr, nullptr);
    if (error < 0) return refused(-error);
    if (error == KMOD_PROBE_APPLY_BLACKLIST)
        return std::unexpected(Failure{EPERM, fmt::format("module {}: modprobe.d lists it as not to be loaded", name)});
    return {};
}

} // namespace ctcached
