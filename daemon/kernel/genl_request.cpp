#include "kernel/genl_request.hpp"

#include <linux/genetlink.h>
#include <netlink/genl/genl.h>

#include <new>
#include <stdexcept>

namespace ctcached {

namespace {

constexpr std::uint8_t version = 1; // of the controller and of nf_ctcache; the kernel does not look at it

[[noreturn]] void no_room() { throw std::length_error("generic netlink: a request is larger than was foreseen"); }

} // namespace

GenlRequest::GenlRequest(std::uint16_t family, std::uint8_t command, std::uint16_t flags, std::size_t room)
    : message_(nlmsg_alloc_size(NLMSG_LENGTH(GENL_HDRLEN) + room)) {
    if (!message_ || !genlmsg_put(message_.get(), 0, 0, family, 0, NLM_F_REQUEST | flags, command, version))
        throw std::bad_alloc();
}

void GenlRequest::put(std::uint16_t type, std::string_view payload) {
    if (nla_put(message_.get(), type, static_cast<int>(payload.size()), payload.data()) < 0) no_room();
}

nlattr* GenlRequest::begin(std::uint16_t type) {
    nlattr* start = nla_nest_start(message_.get(), type);
    if (!start) no_room();
    return start;
}

void GenlRequest::end(nlattr* start) { nla_nest_end(message_.get(), start); }

std::string GenlRequest::bytes() const {
    const nlmsghdr* header = nlmsg_hdr(message_.get());
    return {reinterpret_cast<const char*>(header), header->nlmsg_len};
}

} // namespace ctcached
