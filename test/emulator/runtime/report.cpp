// Settings, and reports of errors in kernels.
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <set>
#include <utility>

#include "state.h"

namespace emulator {
namespace {

std::mutex lock;
std::set<std::pair<int, std::string>> said;  // in this launch: site and kind

}  // namespace

Settings& settings() {
  static Settings settings;
  return settings;
}

std::vector<Report>& reports() {
  static std::vector<Report> reports;
  return reports;
}

void report(const std::string& kind, const std::string& kernel, const std::string& text) {
  constexpr size_t MOST_REPORTS = 1000;
  std::lock_guard guard(lock);
  if (reports().size() >= MOST_REPORTS) return;
  reports().push_back({kind, kernel, text});
  fprintf(stderr, "emulator: %s: %s\n", kind.c_str(), text.c_str());
  if (const char* path = getenv("EMULATOR_REPORTS"))
    if (FILE* file = fopen(path, "a")) {
      fprintf(file, "%s: %s\n", kind.c_str(), text.c_str());
      fclose(file);
    }
}

void begin_reports() {
  std::lock_guard guard(lock);
  said.clear();
}

std::string source_line(const Site& site) {
  if (!site.line) return "an unknown line";
  std::string text = std::string(site.file) + ":" + std::to_string(site.line);
  if (site.outer_line != site.line || std::string(site.outer_file) != site.file)
    text += std::string(" inlined at ") + site.outer_file + ":" + std::to_string(site.outer_line);
  return text;
}

void report_fault(Thread* me, int site, const char* kind, const char* format, ...) {
  {
    std::lock_guard guard(lock);
    if (!said.insert({site, kind}).second) return;
  }
  char message[1000];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  const Worker& worker = *me->block->worker;
  const Extent &block = me->block->geometry.index, &thread = me->index;
  char where[400];
  snprintf(where, sizeof where, "kernel %s, block (%u, %u, %u), thread (%u, %u, %u)", worker.kernel->name, block.x,
           block.y, block.z, thread.x, thread.y, thread.z);
  std::string text = where;
  if (site >= 0) text += ", " + source_line(worker.module->sites[site]) + ", " + worker.module->sites[site].opcode;
  report(kind, worker.kernel->name, text + ": " + message);
}

}  // namespace emulator
