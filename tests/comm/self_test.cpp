#include "semoe/comm/self.hpp"

#include "semoe/testing/check_communicator.hpp"
#include "support/backends.hpp"
#include "support/memory.hpp"

#include <doctest/doctest.h>

using namespace semoe;

TEST_CASE_TEMPLATE("comm/self: models a communicator", B, SEMOE_TEST_BACKENDS) {
    static_assert(Communicator<comm::Self, B>);
    CHECK_NOTHROW(testing::check_communicator(B{}, comm::Self{}));
}

TEST_CASE_TEMPLATE("comm/self: copies rows, or leaves them where they are", B,
                   SEMOE_TEST_BACKENDS) {
    B b;
    comm::Self self;
    auto const send = test::to_backend(b, std::vector<float>{1, 2, 3, 4, 5, 6});
    Buffer<float, B> recv(b, 6);
    index_t const two = 2;
    std::span<index_t const> const counts(&two, 1);
    self.all_to_all_rows(b, as_bytes(send.view()), counts, as_writable_bytes(recv.view()), counts,
                         3 * sizeof(float))
        .wait(b);
    CHECK(test::to_host(b, recv) == std::vector<float>{1, 2, 3, 4, 5, 6});
    self.all_to_all_rows(b, as_bytes(send.view()), counts, as_writable_bytes(send.view()), counts,
                         3 * sizeof(float))
        .wait(b);
    CHECK(test::to_host(b, send) == std::vector<float>{1, 2, 3, 4, 5, 6});
}

TEST_CASE("comm/self: copies share counters, and nothing goes to other ranks") {
    comm::Self self;
    comm::Self copy = self;
    std::vector<index_t> const send = {1, 2};
    std::vector<index_t> recv(2);
    copy.exchange_counts(send, recv);
    self.exchange_counts(send, recv);
    CHECK(self.counters().collectives == 2);
    CHECK(copy.counters().messages == 0);
    CHECK(copy.counters().bytes_sent == 0);
}

TEST_CASE_TEMPLATE("comm/self: names counts and sizes that do not fit", B, SEMOE_TEST_BACKENDS) {
    B b;
    comm::Self self;
    Buffer<std::byte, B> send(b, 64), recv(b, 16);
    std::vector<index_t> const four = {4}, three = {3};
    auto const move = [&](std::vector<index_t> const& out, std::vector<index_t> const& in) {
        self.all_to_all_rows(b, as_bytes(send.view()), out, recv.view(), in, 8).wait(b);
    };
    CHECK_THROWS_WITH_AS(move(four, three),
                         "comm::Self: all_to_all_rows sends 4 rows and expects 3",
                         precondition_error);
    CHECK_THROWS_WITH_AS(move(four, four),
                         "comm::Self: 4 rows of 8 bytes to move out of 64 bytes into 16",
                         precondition_error);
    std::vector<index_t> const wraps = {index_t(1) << 61};
    CHECK_THROWS_AS(move(wraps, wraps), precondition_error);
    CHECK_THROWS_WITH_AS(self.all_gather(b, as_bytes(recv.view()), send.view()),
                         "comm::Self: all_gather of 16 bytes into 64", precondition_error);
    Buffer<float, B> v(b, 2), out(b, 4);
    CHECK_THROWS_WITH_AS(
        self.reduce_scatter_sum(b, VectorView<float const, space_of<B>>(v.view()), out.view()),
        "comm::Self: reduce_scatter_sum of 2 elements into 4", precondition_error);
    std::vector<index_t> two(2);
    CHECK_THROWS_WITH_AS(self.exchange_counts(four, two),
                         "comm::Self: exchange_counts of 1 numbers into 2", precondition_error);
}
