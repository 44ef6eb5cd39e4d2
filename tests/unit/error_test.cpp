#include "base/error.hpp"

#include <doctest/doctest.h>

#include <cerrno>
#include <system_error>

using namespace ctcached;

TEST_CASE("an expected failure names the object and the reason") {
    CHECK(failure(ENOENT, "/etc/x").error() == Failure{ENOENT, "/etc/x: No such file or directory"});
    CHECK(failure(4095, "call").error() == Failure{4095, "call: error 4095"});
    const Result<int> result = failure(EPERM, "open");
    CHECK(!result);
}

TEST_CASE("a fatal error is an exception with its number") {
    try {
        throw_errno(EMFILE, "epoll_create");
    } catch (const std::system_error& error) {
        CHECK(error.code().value() == EMFILE);
        CHECK(std::string(error.what()).starts_with("epoll_create"));
    }
    CHECK_THROWS_AS(throw_errno(EIO, "read"), std::system_error);
}

TEST_CASE("check passes results on and throws -errno") {
    CHECK(check(0, "call") == 0);
    CHECK(check(7, "call") == 7);
    try {
        check(-EBUSY, "sd_bus_request_name");
        FAIL("did not throw");
    } catch (const std::system_error& error) {
        CHECK(error.code().value() == EBUSY);
    }
}
