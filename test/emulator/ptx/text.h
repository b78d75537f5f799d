// String functions for the translator, and its only error type.
#pragma once
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace emulator {

// Unknown or malformed PTX.
struct PtxError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

template <class T>
void append(std::string& to, const T& piece) {
  if constexpr (std::is_arithmetic_v<T> && !std::is_same_v<T, char>) to += std::to_string(piece);
  else to += piece;
}

// Concatenates strings and numbers.
template <class... T>
std::string cat(const T&... pieces) {
  std::string all;
  (append(all, pieces), ...);
  return all;
}

std::string trim(std::string_view text);
// Splits at `separator` outside of brackets; pieces are trimmed.
std::vector<std::string> split(std::string_view text, char separator);
// Whether `word` is one of the blank-separated words of `list`.
bool one_of(std::string_view word, std::string_view list);
bool starts_with(std::string_view text, std::string_view start);
// A C identifier for a PTX name.
std::string identifier(std::string_view name);
// Replaces comments with blanks; line ends stay.
std::string without_comments(std::string_view text);
// The first word, and the rest.
std::string first_word(std::string_view text, std::string* rest);

}  // namespace emulator
