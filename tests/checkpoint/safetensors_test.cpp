#include "semoe/checkpoint/safetensors.hpp"

#include "fuzz/safetensors_target.hpp"
#include "support/faulty_file_system.hpp"

#include <cmath>
#include <doctest/doctest.h>
#include <filesystem>
#include <limits>
#include <type_traits>

using namespace semoe;
using namespace semoe::checkpoint;
using semoe::fuzz::file_of;

namespace {

using Index = std::vector<index_t>;

Index shape_of(StoredTensor const& t) { return {t.shape.begin(), t.shape.end()}; }

SafetensorsFile in_memory(std::string const& bytes, Gaps gaps = Gaps::refuse) {
    return {"input", std::as_bytes(std::span(bytes)), gaps};
}
std::string error_of(std::string const& bytes, Gaps gaps = Gaps::refuse) {
    try {
        (void)in_memory(bytes, gaps);
    } catch (store_error const& error) {
        return error.what();
    }
    return "accepted";
}
/// The header of one tensor "a".
std::string header_a(std::string const& dtype, std::string const& shape,
                     std::string const& offsets) {
    return R"({"a":{"dtype":)" + dtype + R"(,"shape":)" + shape + R"(,"data_offsets":)" + offsets +
           "}}";
}
std::string entry(std::string const& name, std::string const& shape, std::string const& offsets) {
    return "\"" + name + R"(":{"dtype":"U8","shape":)" + shape + R"(,"data_offsets":)" + offsets +
           "}";
}
std::string length_word(std::uint64_t n) {
    return std::string(reinterpret_cast<char const*>(&n), sizeof n);
}

} // namespace

static_assert(std::is_nothrow_move_constructible_v<SafetensorsFile> &&
              !std::is_copy_constructible_v<SafetensorsFile>);

TEST_CASE("checkpoint/safetensors: reads every file of another implementation under tests/data") {
    int files = 0;
    for (auto const& item : std::filesystem::recursive_directory_iterator(SEMOE_TEST_DATA)) {
        if (item.path().extension() != ".safetensors") continue;
        CAPTURE(item.path().string());
        SafetensorsFile const file{item.path().string()};
        ++files;
        CHECK(!file.names().empty());
        for (std::string const& name : file.names()) {
            CAPTURE(name);
            StoredTensor const t = file.tensor(name);
            index_t elements = 1;
            for (index_t const n : t.shape) elements *= n;
            CHECK(elements == t.elements());
            if (t.dtype == Dtype::F32 || t.dtype == Dtype::F64)
                CHECK(std::ranges::all_of(file.values<double>(name),
                                          [](double v) { return std::isfinite(v); }));
            if (t.dtype == Dtype::I32)
                CHECK(std::ranges::all_of(file.values<index_t>(name),
                                          [](index_t v) { return v >= 0 && v < 1000; }));
        }
    }
    CHECK(files >= 4);
}

TEST_CASE("checkpoint/safetensors: names, shapes and values of a reference layer are as recorded") {
    SafetensorsFile file{SEMOE_TEST_DATA "/layers/mixtral.safetensors"};
    CHECK(shape_of(file.tensor("x")) == Index{37, 32});
    CHECK(shape_of(file.tensor("topk_ids")) == Index{37, 2});
    CHECK(file.tensor("topk_ids").dtype == Dtype::I32);
    CHECK(file.tensor("f64.y").dtype == Dtype::F64);
    auto const y = file.values<double>("y"), y64 = file.values<double>("f64.y");
    REQUIRE(y.size() == 37 * 32);
    double worst = 0;
    for (std::size_t i = 0; i < y.size(); ++i) worst = std::max(worst, std::abs(y[i] - y64[i]));
    CHECK(worst > 0);
    CHECK(worst < 1e-5);
    // Every row of top-2 weights sums to one.
    auto const weights = file.values<float>("topk_weights");
    for (std::size_t i = 0; i < weights.size(); i += 2)
        CHECK(weights[i] + weights[i + 1] == doctest::Approx(1));
    auto const view = file.view<float>("y");
    CHECK(view.size == 37 * 32);
    CHECK(double(view[5]) == y[5]);

    std::byte const* const bytes = file.tensor("x").bytes.data();
    SafetensorsFile const moved{std::move(file)};
    CHECK(moved.tensor("x").bytes.data() == bytes);
    CHECK(moved.contains("topk_ids"));
    CHECK_FALSE(moved.contains("topk_id"));
}

TEST_CASE("checkpoint/safetensors: floating types are converted, whole numbers where they fit") {
    std::string header = R"({"d":{"dtype":"F64","shape":[3],"data_offsets":[0,24]},)"
                         R"("l":{"dtype":"I64","shape":[2],"data_offsets":[24,40]},)"
                         R"("h":{"dtype":"BF16","shape":[1],"data_offsets":[40,42]},)"
                         R"("b":{"dtype":"BOOL","shape":[2],"data_offsets":[42,44]},)"
                         R"("o":{"dtype":"F64","shape":[],"data_offsets":[44,52]}})";
    std::string data(52, '\0');
    double const d[] = {1.0 / 3, -0.0, std::numeric_limits<double>::infinity()};
    std::int64_t const l[] = {-7, 300};
    bf16 const h(3.140625f);
    data[43] = 1;
    std::memcpy(data.data(), d, sizeof d);
    std::memcpy(data.data() + 24, l, sizeof l);
    std::memcpy(data.data() + 40, &h, sizeof h);
    std::memcpy(data.data() + 44, d, sizeof(double));
    std::string const bytes = file_of(header, 0) + data;
    SafetensorsFile const file = in_memory(bytes);

    CHECK(file.values<double>("d") == std::vector<double>(d, d + 3));
    CHECK(file.values<float>("d")[0] == 1.0f / 3);
    CHECK(std::signbit(file.values<float>("d")[1]));
    CHECK(float(file.values<f16>("d")[2]) == std::numeric_limits<float>::infinity());
    CHECK(file.values<bf16>("d")[0].bits == bf16(1.0f / 3).bits);
    CHECK(file.values<double>("h") == std::vector{3.140625});
    CHECK(file.values<bf16>("h")[0].bits == h.bits);
    CHECK(file.values<std::int32_t>("l") == std::vector<std::int32_t>{-7, 300});
    CHECK(file.values<std::int64_t>("l") == std::vector<std::int64_t>{-7, 300});
    CHECK(file.values<std::uint8_t>("b") == std::vector<std::uint8_t>{0, 1});
    CHECK(file.values<std::int64_t>("b") == std::vector<std::int64_t>{0, 1});
    // "o" is aligned only by accident of the header's length.
    CHECK(file.values<double>("o") == std::vector{1.0 / 3});

    CHECK_THROWS_WITH_AS((void)file.values<std::int8_t>("l"),
                         "input: tensor 'l': element 1 is 300, too large for I8", store_error);
    CHECK_THROWS_WITH_AS((void)file.values<std::uint8_t>("l"),
                         "input: tensor 'l': element 0 is -7, too large for U8", store_error);
    CHECK_THROWS_WITH_AS((void)file.values<float>("l"),
                         "input: tensor 'l': dtype is I64, F32 was asked for", store_error);
    CHECK_THROWS_WITH_AS((void)file.values<std::int64_t>("d"),
                         "input: tensor 'd': dtype is F64, I64 was asked for", store_error);
    CHECK_THROWS_WITH_AS((void)file.view<float>("d"),
                         "input: tensor 'd': dtype is F64, F32 was asked for", store_error);
    CHECK_THROWS_WITH_AS((void)file.tensor("e"), "input: no tensor 'e'", store_error);
}

TEST_CASE("checkpoint/safetensors: tensors of types that nothing here computes with are there, and "
          "are refused when they are asked for as others") {
    std::string const bytes = file_of(R"({"p":{"dtype":"F4","shape":[2,3],"data_offsets":[0,3]},)"
                                      R"("q":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[3,4]},)"
                                      R"("u":{"dtype":"U16","shape":[2],"data_offsets":[4,8]},)"
                                      R"("x":{"dtype":"BOOL","shape":[1],"data_offsets":[8,9]}})",
                                      0) +
                              std::string("\1\2\3\4\xff\xff\0\1\1", 9);
    SafetensorsFile const file = in_memory(bytes);
    CHECK(file.names().size() == 4);
    CHECK(file.tensor("p").bytes.size() == 3);
    CHECK(file.tensor("p").elements() == 6);
    CHECK(file.values<std::int32_t>("u") == std::vector<std::int32_t>{65535, 256});
    CHECK(file.values<std::uint8_t>("x") == std::vector<std::uint8_t>{1});
    CHECK_THROWS_WITH_AS((void)file.values<std::int16_t>("u"),
                         "input: tensor 'u': element 0 is 65535, too large for I16", store_error);
    CHECK_THROWS_WITH_AS((void)file.values<float>("q"),
                         "input: tensor 'q': dtype is F8_E4M3, F32 was asked for", store_error);
    CHECK_THROWS_WITH_AS((void)file.view<std::uint8_t>("p"),
                         "input: tensor 'p': dtype is F4, U8 was asked for", store_error);
}

TEST_CASE("checkpoint/safetensors: a view that the file does not align is refused, a copy is not") {
    // Alignment is that of memory, so one of eight neighbouring header lengths is right.
    int aligned = 0;
    for (std::size_t padding = 0; padding < 8; ++padding) {
        std::string const header = header_a("\"F64\"", "[1]", "[0,8]") + std::string(padding, ' ');
        std::string bytes = file_of(header, 8);
        SafetensorsFile const file = in_memory(bytes);
        CHECK(file.values<double>("a").size() == 1);
        try {
            aligned += int(file.view<double>("a").size);
        } catch (store_error const& error) {
            CHECK(std::string(error.what()) == "input: tensor 'a': not aligned for its type; copy "
                                               "it with values()");
        }
    }
    CHECK(aligned == 1);
}

TEST_CASE("checkpoint/safetensors: a bool is 0 or 1") {
    std::string bytes = file_of(header_a("\"BOOL\"", "[2]", "[0,2]"), 2);
    bytes[bytes.size() - 2] = 0;
    bytes.back() = 1;
    CHECK(in_memory(bytes).view<bool>("a")[1]);
    bytes.back() = 2;
    CHECK_THROWS_WITH_AS(in_memory(bytes).view<bool>("a"),
                         "input: tensor 'a': a bool that is neither 0 nor 1", store_error);
}

TEST_CASE("checkpoint/safetensors: scalars, empty tensors, metadata and no tensors are ordinary") {
    for (std::string const& seed : fuzz::seeds()) CHECK(error_of(seed) == "accepted");
    std::string const bytes = fuzz::seeds()[3];
    SafetensorsFile const file = in_memory(bytes);
    CHECK(file.names() == std::vector<std::string>{"a", "b", "c"});
    CHECK(shape_of(file.tensor("a")).empty());
    CHECK(file.tensor("a").elements() == 1);
    CHECK(file.values<std::int64_t>("b").empty());
    CHECK(shape_of(file.tensor("b")) == Index{0, 7});
    std::string const with_metadata = fuzz::seeds()[1];
    auto const metadata = in_memory(with_metadata).metadata();
    CHECK(metadata == std::map<std::string, std::string>{{"format", "pt"}, {"\u00e4", "\n"}});
}

TEST_CASE("checkpoint/safetensors: a file that is not what it claims gives one defined error") {
    std::string const good = header_a("\"F32\"", "[2,3]", "[0,24]");
    std::string const f32 = "\"F32\"";
    struct Case {
        std::string bytes, said; // after "input: "; a trailing * matches the rest
    };
    Case const cases[] = {
        // the length word
        {"", "header length: the file has 0 bytes, the length alone takes 8"},
        {"1234567", "header length: the file has 7 bytes, the length alone takes 8"},
        {length_word(1), "header length: 1, but only 0 bytes follow"},
        {length_word(3) + "{}", "header length: 3, but only 2 bytes follow"},
        {length_word(100'000'000) + "{}", "header length: 100000000, but only 2 bytes follow"},
        {length_word(100'000'001) + "{}",
         "header length: 100000001 is over the limit of 100000000"},
        {length_word(~std::uint64_t(0)) + "{}",
         "header length: 18446744073709551615 is over the limit of 100000000"},
        {R"({"weight_map":{}})", "header length: 8388068008349082235 is over the limit of "
                                 "100000000; the file is text: where "
                                 "it is the index of a model in several files, give those"},
        {length_word(0), "header: does not begin with '{'"},
        // the text
        {file_of("[]", 0), "header: does not begin with '{'"},
        {file_of(" {}", 0), "header: does not begin with '{'"},
        {file_of("\xef\xbb\xbf{}", 0), "header: does not begin with '{'"},
        {file_of(std::string("{}\0", 3), 0), "header: holds a zero byte"},
        {file_of("{", 0), "header: not JSON at byte 2: *"},
        {file_of("{}{}", 0), "header: not JSON at byte 3: *"},
        {file_of(good.substr(0, good.size() - 1), 24), "header: not JSON at byte *"},
        {file_of(R"({"a":nan})", 0), "header: not JSON at byte *"},
        {file_of("{\"\xff\":{}}", 0), "header: not JSON at byte *"},
        {file_of(header_a(f32, "[1e999]", "[0,0]"), 0), "header: not JSON at byte *"},
        {file_of("{\"" + std::string(100'000, 'x'), 0), "header: not JSON at byte 100003: *"},
        // shapes of JSON
        {file_of(R"({"a":1})", 0), "tensor 'a': an object was expected, found 1"},
        {file_of(R"({"a":[]})", 0), "tensor 'a': an object was expected, found an array"},
        {file_of(R"({"a":null})", 0), "tensor 'a': an object was expected, found null"},
        {file_of("{\"a\":" + std::string(100'000, '['), 0),
         "tensor 'a': an object was expected, found an array"},
        {file_of(R"({"a":{}})", 0), "tensor 'a': dtype is missing"},
        {file_of(R"({"a":{"dtype":"U8"}})", 0), "tensor 'a': shape is missing"},
        {file_of(R"({"a":{"dtype":"U8","shape":[0]}})", 0), "tensor 'a': data_offsets is missing"},
        {file_of(R"({"a":{"dtyp":"U8"}})", 0),
         "tensor 'a': 'dtyp': unknown field; a tensor has dtype, shape and data_offsets"},
        {file_of(R"({"a":{"dtype":"U8","dtype":"U8"}})", 0), "tensor 'a': dtype: repeated"},
        {file_of(R"({"a":{"shape":[],"shape":[]}})", 0), "tensor 'a': shape: repeated"},
        {file_of("{" + entry("a", "[1]", "[0,1]") + "," + entry("a", "[1]", "[1,2]") + "}", 2),
         "tensor 'a': repeated"},
        // dtype
        {file_of(header_a("7", "[]", "[0,4]"), 4),
         "tensor 'a': dtype: a string was expected, found 7"},
        {file_of(header_a("[\"F32\"]", "[]", "[0,4]"), 4),
         "tensor 'a': dtype: a string was expected, found an array"},
        {file_of(header_a("\"F8_E9\"", "[]", "[0,4]"), 4),
         "tensor 'a': dtype: 'F8_E9' is not one of F64 F32 F16 *"},
        {file_of(header_a("\"f32\"", "[]", "[0,4]"), 4),
         "tensor 'a': dtype: 'f32' is not one of F64 F32 F16 BF16 I64 I32 I16 I8 U8 BOOL U64 U32 "
         "U16 C64 F8_E5M2 F8_E4M3 F8_E8M0 F6_E3M2 F6_E2M3 F4"},
        {file_of(header_a("\"F4\"", "[3,5]", "[0,8]"), 8),
         "tensor 'a': shape [3,5] of F4 ends within a byte"},
        {file_of(header_a("\"F6_E2M3\"", "[4]", "[0,4]"), 4),
         "tensor 'a': data_offsets [0,4] hold 4 bytes, shape [4] of F6_E2M3 has 3"},
        // shape
        {file_of(header_a(f32, "6", "[0,24]"), 24),
         "tensor 'a': shape: an array was expected, found 6"},
        {file_of(header_a(f32, "\"6\"", "[0,24]"), 24),
         "tensor 'a': shape: an array was expected, found a string"},
        {file_of(header_a(f32, "{}", "[0,24]"), 24),
         "tensor 'a': shape: an array was expected, found an object"},
        {file_of(header_a(f32, "[-1]", "[0,4]"), 4),
         "tensor 'a': shape: a whole number from 0 on was expected, found -1"},
        {file_of(header_a(f32, "[1.5]", "[0,4]"), 4),
         "tensor 'a': shape: a whole number from 0 on was expected, found 1.5"},
        {file_of(header_a(f32, "[1.0]", "[0,4]"), 4),
         "tensor 'a': shape: a whole number from 0 on was expected, found 1.0"},
        {file_of(header_a(f32, "[true]", "[0,4]"), 4),
         "tensor 'a': shape: a whole number from 0 on was expected, found a boolean"},
        {file_of(header_a(f32, "[[6]]", "[0,24]"), 24),
         "tensor 'a': shape: a whole number from 0 on was expected, found an array"},
        {file_of(header_a(f32, "[9223372036854775808]", "[0,4]"), 4),
         "tensor 'a': shape: 9223372036854775808 is too large"},
        {file_of(header_a(f32, "[4294967296,4294967296]", "[0,0]"), 0),
         "tensor 'a': shape [4294967296,4294967296] is too large"},
        {file_of(header_a(f32, "[4294967296,0,4294967296]", "[0,0]"), 0),
         "tensor 'a': shape [4294967296,0,4294967296] is too large"},
        {file_of(header_a("\"F64\"", "[1152921504606846976]", "[0,0]"), 0),
         "tensor 'a': shape [1152921504606846976] is too large"},
        // data_offsets
        {file_of(header_a(f32, "[6]", "[]"), 24),
         "tensor 'a': data_offsets: two numbers were expected"},
        {file_of(header_a(f32, "[6]", "[24]"), 24),
         "tensor 'a': data_offsets: two numbers were expected"},
        {file_of(header_a(f32, "[6]", "[0,24,24]"), 24),
         "tensor 'a': data_offsets: more than two numbers"},
        {file_of(header_a(f32, "[6]", "24"), 24),
         "tensor 'a': data_offsets: an array was expected, found 24"},
        {file_of(header_a(f32, "[6]", "[-24,0]"), 24),
         "tensor 'a': data_offsets: a whole number from 0 on was expected, found -24"},
        {file_of(header_a(f32, "[6]", "[0,18446744073709551615]"), 24),
         "tensor 'a': data_offsets: 18446744073709551615 is too large"},
        {file_of(header_a(f32, "[6]", "[24,0]"), 24),
         "tensor 'a': data_offsets [24,0] end before they begin"},
        {file_of(good, 23),
         "tensor 'a': data_offsets [0,24] pass the end of the file, which has 23 bytes of data"},
        {file_of(header_a("\"U8\"", "[9223372036854775807]", "[0,9223372036854775807]"), 8),
         "tensor 'a': data_offsets [0,9223372036854775807] pass the end of the file, which has 8 "
         "bytes of data"},
        {file_of(header_a(f32, "[2,3]", "[0,20]"), 20),
         "tensor 'a': data_offsets [0,20] hold 20 bytes, shape [2,3] of F32 has 24"},
        {file_of(header_a("\"F16\"", "[2,3]", "[0,24]"), 24),
         "tensor 'a': data_offsets [0,24] hold 24 bytes, shape [2,3] of F16 has 12"},
        {file_of(header_a(f32, "[0]", "[0,4]"), 4),
         "tensor 'a': data_offsets [0,4] hold 4 bytes, shape [0] of F32 has 0"},
        // tensors against one another
        {file_of(good, 25), "data: 25 bytes, but data_offsets end at 24"},
        {file_of("{}", 1), "data: 1 bytes, but data_offsets end at 0"},
        {file_of("{" + entry("a", "[4]", "[0,4]") + "," + entry("b", "[4]", "[3,7]") + "}", 7),
         "tensor 'b': data_offsets [3,7] overlap tensor 'a', data_offsets [0,4]"},
        {file_of("{" + entry("a", "[4]", "[0,4]") + "," + entry("b", "[4]", "[0,4]") + "}", 4),
         "tensor '*"},
        {file_of("{" + entry("a", "[4]", "[0,4]") + "," + entry("b", "[0]", "[2,2]") + "}", 4),
         "tensor 'b': data_offsets [2,2] overlap tensor 'a', data_offsets [0,4]"},
        {file_of("{" + entry("a", "[1]", "[0,1]") + "," + entry("b", "[1]", "[2,3]") + "}", 3),
         "tensor 'b': data_offsets [2,3] leave a hole from byte 1 on"},
        // metadata
        {file_of(R"({"__metadata__":7})", 0), "__metadata__: an object was expected, found 7"},
        {file_of(R"({"__metadata__":{"k":7}})", 0),
         "__metadata__: 'k': a string was expected, found 7"},
        {file_of(R"({"__metadata__":{"k":{}}})", 0),
         "__metadata__: 'k': a string was expected, found an object"},
        {file_of(R"({"__metadata__":{"k":"","k":""}})", 0), "__metadata__: 'k': repeated"},
        {file_of(R"({"__metadata__":{},"__metadata__":{}})", 0), "__metadata__: repeated"},
        // names chosen to do harm in an error's text
        {file_of("{\"" + std::string(1000, 'n') + "\":1}", 0),
         "tensor '" + std::string(120, 'n') + "...': an object was expected, found 1"},
        {file_of(R"({"\u001b[2J\n":1})", 0), "tensor '?[2J?': an object was expected, found 1"},
    };
    CHECK(std::size(cases) >= 30);
    for (Case const& c : cases) {
        std::string const said = error_of(c.bytes), expected = "input: " + c.said;
        CAPTURE(expected);
        if (expected.back() == '*') {
            std::string const beginning = expected.substr(0, expected.size() - 1);
            CHECK(said.substr(0, beginning.size()) == beginning);
            CHECK(said.size() < 1000);
        } else {
            CHECK(said == expected);
        }
    }
}

TEST_CASE("checkpoint/safetensors: gaps are accepted where they are allowed, overlaps nowhere") {
    std::string const hole =
        file_of("{" + entry("a", "[1]", "[1,2]") + "," + entry("b", "[1]", "[3,4]") + "}", 6);
    CHECK(error_of(hole) == "input: tensor 'a': data_offsets [1,2] leave a hole from byte 0 on");
    CHECK(error_of(hole, Gaps::allow) == "accepted");
    CHECK(in_memory(hole, Gaps::allow).values<std::uint8_t>("b") ==
          std::vector<std::uint8_t>{3 * 37});
    std::string const overlap =
        file_of("{" + entry("a", "[2]", "[0,2]") + "," + entry("b", "[2]", "[1,3]") + "}", 3);
    CHECK(error_of(overlap, Gaps::allow) ==
          "input: tensor 'b': data_offsets [1,3] overlap tensor 'a', data_offsets [0,2]");
}

TEST_CASE("checkpoint/safetensors: every truncation of a good file is an error that names it") {
    test::ScratchDirectory directory;
    std::string const path = directory / "cut.safetensors", whole = fuzz::seeds().back();
    for (std::size_t n = 0; n < whole.size(); ++n) {
        test::write_text(path, whole.substr(0, n));
        std::string said = "accepted";
        try {
            SafetensorsFile const file{path};
        } catch (store_error const& error) {
            said = error.what();
        }
        CAPTURE(n);
        CHECK(said.substr(0, path.size() + 2) == path + ": ");
    }
    test::write_text(path, whole);
    CHECK(SafetensorsFile{path}.names().size() == 7);
}
