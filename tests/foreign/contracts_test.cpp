#include "foreign/acme.hpp"

#include <semoe/backend/cpu/cpu.hpp>
#include <semoe/gate/topk.hpp>
#include <semoe/testing/check_communicator.hpp>
#include <semoe/testing/check_expert.hpp>
#include <semoe/testing/check_gate.hpp>
#include <semoe/testing/check_store.hpp>

#include <doctest/doctest.h>

using semoe::CpuBackend;

TEST_CASE("foreign/contracts: a user's policies keep the contracts of the built-in ones") {
    CpuBackend b{.threads = 2};
    semoe::testing::check_gate(b, semoe::gate::TopK<acme::Square>{.num_experts = 7, .top_k = 3},
                               {.ranks_by_logit = false});
    semoe::testing::check_gate(b, acme::RoundRobin{.num_experts = 5});
    semoe::testing::check_expert(b, acme::Scale<double>{.hidden = 5});
    semoe::testing::check_store(b, acme::MapStore{});
    semoe::testing::check_communicator(b, acme::CountingRanks<>{});
}

static_assert(semoe::Optimizer<acme::SignDescent, CpuBackend>);
static_assert(semoe::Schedule<acme::Backwards>);
