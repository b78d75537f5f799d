// Strings, as the translator needs them, and its one kind of error.
#pragma once
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace emulator {

// Something in the PTX that the engine doesn't know, or PTX that is not well formed.
struct PtxError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

template <class T>
void append(std::string& to, const T& piece) {
  if constexpr (std::is_arithmetic_v<T> && !std::is_same_v<T, char>) to += std::to_string(piece);
  else to += piece;
}

// The pieces, strings and numbers, one after the other.
template <class... T>
std::string cat(const T&... pieces) {
  std::string all;
  (append(all, pieces), ...);
  return all;
}

std::string trim(std::string_view text);
// Splits at `separator` where no bracket is open; pieces are trimmed.
std::vector<std::string> split(std::string_view text, char separator);
// Whether `word` is one of the words of `list`, which are separated by blanks.
bool one_of(std::string_view word, std::string_view list);
bool starts_with(std::string_view text, std::string_view start);
// A C identifier for a PTX name.
std::string identifier(std::string_view name);
// Blanks in place of comments; line ends stay.
std::string without_comments(std::string_view text);
// The first word, and what follows it.
std::string first_word(std::string_view text, std::string* rest);

}  // namespace emulator
