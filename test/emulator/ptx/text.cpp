#include "text.h"

namespace emulator {

std::string trim(std::string_view text) {
  size_t first = text.find_first_not_of(" \t\r\n");
  if (first == std::string_view::npos) return "";
  return std::string(text.substr(first, text.find_last_not_of(" \t\r\n") - first + 1));
}

std::vector<std::string> split(std::string_view text, char separator) {
  std::vector<std::string> pieces;
  int open = 0;
  size_t start = 0;
  for (size_t i = 0; i < text.size(); i++) {
    char c = text[i];
    if (c == '{' || c == '[' || c == '(') open++;
    if (c == '}' || c == ']' || c == ')') open--;
    if (c != separator || open) continue;
    pieces.push_back(trim(text.substr(start, i - start)));
    start = i + 1;
  }
  std::string last = trim(text.substr(start));
  if (!last.empty() || !pieces.empty()) pieces.push_back(last);
  return pieces;
}

bool one_of(std::string_view word, std::string_view list) {
  for (size_t at = list.find(word); at != std::string_view::npos; at = list.find(word, at + 1)) {
    size_t end = at + word.size();
    if ((at == 0 || list[at - 1] == ' ') && (end == list.size() || list[end] == ' ')) return !word.empty();
  }
  return false;
}

bool starts_with(std::string_view text, std::string_view start) {
  return text.substr(0, start.size()) == start;
}

std::string identifier(std::string_view name) {
  std::string result;
  for (char c : name) {
    if (isalnum((unsigned char)c) || c == '_') result += c;
    else result += c == '%' ? "p_" : c == '$' ? "d_" : "x_";
  }
  return result;
}

std::string without_comments(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  for (size_t i = 0; i < text.size(); i++) {
    if (text[i] == '/' && i + 1 < text.size() && text[i + 1] == '/') {
      while (i < text.size() && text[i] != '\n') i++;
      result += '\n';
    } else if (text[i] == '/' && i + 1 < text.size() && text[i + 1] == '*') {
      size_t end = text.find("*/", i + 2);
      if (end == std::string_view::npos) break;
      i = end + 1;
      result += ' ';
    } else {
      result += text[i];
    }
  }
  return result;
}

std::string first_word(std::string_view text, std::string* rest) {
  std::string trimmed = trim(text);
  size_t end = trimmed.find_first_of(" \t\r\n");
  if (rest) *rest = end == std::string::npos ? "" : trim(std::string_view(trimmed).substr(end));
  return trimmed.substr(0, end);
}

}  // namespace emulator
