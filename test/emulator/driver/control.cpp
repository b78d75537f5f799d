// What tests set and read: settings (also from the environment, read at the first call), reports, counters, live objects, calls
// and launches. Answers are JSON, valid until the thread's next such call.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "driver.h"
#include "hooks.h"

namespace emulator::driver {

namespace {

DriverSettings values;
void read_environment() {
  const auto number = [](const char* name, auto set) {
    if (const char* text = getenv(name); text && *text) set(strtoull(text, nullptr, 10));
  };
  number("EMULATOR_ORDER", [](uint64_t value) { settings().order = Order(value & 3); });
  number("EMULATOR_SEED", [](uint64_t value) { settings().seed = value; });
  number("EMULATOR_CHECK", [](uint64_t value) { settings().check = value != 0; });
  number("EMULATOR_PERTURB", [](uint64_t value) { settings().perturb = value != 0; });
  number("EMULATOR_TRUNCATE", [](uint64_t value) { settings().accumulation = {int(value / 10), int(value % 10)}; });
  number("EMULATOR_THREADS", [](uint64_t value) { settings().threads = uint32_t(value); });
  number("EMULATOR_MEMORY", [](uint64_t value) { values.memory = value; });
  number("EMULATOR_COMPUTE_CAPABILITY", [](uint64_t value) { values.compute_capability = int(value); });
  if (const char* streams = getenv("EMULATOR_STREAMS")) values.lazy = !strcmp(streams, "lazy");
}

std::string quoted(const std::string& text) {
  std::string result = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') result += '\\';
    if (static_cast<unsigned char>(c) < 0x20) {
      char escape[8];
      snprintf(escape, sizeof escape, "\\u%04x", c);
      result += escape;
    } else {
      result += c;
    }
  }
  return result + "\"";
}

template <class Number>
std::string object(const std::map<std::string, Number>& values) {
  std::string text = "{";
  for (const auto& [name, value] : values) {
    if (text.size() > 1) text += ",";
    text += quoted(name) + ":" + std::to_string(value);
  }
  return text + "}";
}

const char* answer(std::string text) {
  static thread_local std::string kept;
  kept = std::move(text);
  return kept.c_str();
}

}  // namespace

std::map<std::string, int>& library_objects() {
  static std::map<std::string, int> live;
  return live;
}

DriverSettings& driver_settings() {
  static const bool read = (read_environment(), true);
  (void)read;
  return values;
}

}  // namespace emulator::driver

using namespace emulator::driver;

API void emulator_set_order(int order, uint64_t seed) {
  Call call(nullptr, Needs::nothing);
  emulator::settings().order = emulator::Order(order & 3);
  emulator::settings().seed = seed;
}

API void emulator_set_streams(int lazy) {
  Call call(nullptr, Needs::nothing);
  wait_all();
  driver_settings().lazy = lazy != 0;
}

API void emulator_set_check(int check) {
  Call call(nullptr, Needs::nothing);
  emulator::settings().check = check != 0;
}

API void emulator_set_perturb(int perturb) {
  Call call(nullptr, Needs::nothing);
  emulator::settings().perturb = perturb != 0;
}

API void emulator_set_accumulation(int products, int extra_bits) {
  Call call(nullptr, Needs::nothing);
  emulator::settings().accumulation = {products, extra_bits};
}

API void emulator_set_threads(int threads) {
  Call call(nullptr, Needs::nothing);
  emulator::settings().threads = uint32_t(threads);
}

API void emulator_set_memory(uint64_t bytes) {
  Call call(nullptr, Needs::nothing);
  driver_settings().memory = bytes;
}

API void emulator_set_compute_capability(int capability) {
  Call call(nullptr, Needs::nothing);
  driver_settings().compute_capability = capability;
}

API const char* emulator_reports() {
  Call call(nullptr, Needs::nothing);
  std::string text = "[";
  for (const emulator::Report& each : emulator::reports()) {
    if (text.size() > 1) text += ",";
    text += "{\"kind\":" + quoted(each.kind) + ",\"kernel\":" + quoted(each.kernel) + ",\"text\":" + quoted(each.text) + "}";
  }
  return answer(text + "]");
}

API void emulator_clear_reports() {
  Call call(nullptr, Needs::nothing);
  emulator::reports().clear();
}

API const char* emulator_counters() {
  Call call(nullptr, Needs::nothing);
  std::string text = "[";
  for (const emulator::Counters& c : emulator::counters()) {
    if (text.size() > 1) text += ",";
    text += "{\"kernel\":" + quoted(c.kernel);
    const auto add = [&](const char* name, uint64_t value) { text += "," + quoted(name) + ":" + std::to_string(value); };
    add("launches", c.launches);
    add("threads", c.threads);
    add("instructions", c.instructions);
    add("integer", c.integer);
    add("floating", c.floating);
    add("fused", c.fused);
    add("special", c.special);
    add("memory", c.memory);
    add("barrier", c.barrier);
    add("warp", c.warp);
    add("mma", c.mma);
    add("ldmatrix", c.ldmatrix);
    add("asyncCopy", c.async_copy);
    add("control", c.control);
    add("flops", c.flops);
    add("mmaFlops", c.mma_flops);
    add("sectors", c.sectors);
    add("idealSectors", c.ideal_sectors);
    add("sharedAccesses", c.shared_accesses);
    add("sharedPasses", c.shared_passes);
    text += "}";
  }
  return answer(text + "]");
}

API void emulator_clear_counters() {
  Call call(nullptr, Needs::nothing);
  emulator::clear_counters();
  executed().clear();
  calls_by_name().clear();
}

API const char* emulator_live() {
  Call call(nullptr, Needs::nothing);
  const LiveObjects live = live_objects();
  std::map<std::string, uint64_t> counts{{"allocations", live.allocations}, {"bytes", memory_in_use()},
                                         {"pinned", live.pinned},           {"streams", live.streams},
                                         {"events", live.events},           {"modules", live.modules},
                                         {"graphs", live.graphs},           {"executables", live.executables},
                                         {"contexts", uint64_t(context().retained)}};
  for (const auto& [kind, count] : library_objects()) counts[kind] = uint64_t(count);
  return answer(object(counts));
}

// Kernels and library calls that ran, by name, including those replayed in a graph.
API const char* emulator_launches() {
  Call call(nullptr, Needs::nothing);
  return answer(object(executed()));
}

API const char* emulator_calls() {
  Call call(nullptr, Needs::nothing);
  return answer(object(calls_by_name()));
}

// Resets to the state of a new process: every object is freed, whatever the context's state.
API void emulator_reset() {
  Call call(nullptr, Needs::nothing);
  destroy_objects(nullptr);
  context().retained = 0;
  emulator::reports().clear();
  emulator::clear_counters();
  executed().clear();
  calls_by_name().clear();
}

// --- hooks of the other libraries

API int emulator_hook_status() {
  Call call(nullptr, Needs::context);
  return call.status;
}

API int emulator_hook_inside(uint64_t address, uint64_t size) {
  Call call(nullptr, Needs::nothing);
  return inside_allocation(address, size);
}

API void emulator_hook_written(uint64_t address, uint64_t size) {
  Call call(nullptr, Needs::nothing);
  note_written(address, size);
}

API int emulator_hook_submit(void* stream_handle, const char* name, void (*run)(const void*), const void* data, size_t size) {
  Call call(nullptr, Needs::context);
  if (call.status) return call.status;
  const auto stream = find_stream(stream_handle);
  if (!stream) return invalid_handle;
  auto operation = std::make_shared<Operation>();
  operation->type = NodeType::kernel;
  operation->name = name;
  operation->run = [run, name = std::string(name),
                    copy = std::vector<char>(static_cast<const char*>(data), static_cast<const char*>(data) + size)] {
    executed()[name]++;
    run(copy.data());
  };
  return submit(stream, std::move(operation));
}

API void emulator_hook_count(const char* name) { Call call(name, Needs::nothing); }

API bool emulator_hook_capturing(void* stream_handle) {
  Call call(nullptr, Needs::nothing);
  const auto stream = find_stream(stream_handle);
  return stream && stream->capture;
}

API void emulator_hook_fault(int status) {
  Call call(nullptr, Needs::nothing);
  set_sticky(Status(status));
}

API void emulator_hook_report(const char* kind, const char* name, const char* text) {
  Call call(nullptr, Needs::nothing);
  emulator::report(kind, name, text);
}

API void emulator_hook_accumulation(int* products, int* extra_bits) {
  Call call(nullptr, Needs::nothing);
  *products = emulator::settings().accumulation.products;
  *extra_bits = emulator::settings().accumulation.extra_bits;
}

API int emulator_hook_compute_capability() {
  Call call(nullptr, Needs::nothing);
  return driver_settings().compute_capability;
}

API void emulator_hook_live(const char* kind, int change) {
  Call call(nullptr, Needs::nothing);
  library_objects()[kind] += change;
}
