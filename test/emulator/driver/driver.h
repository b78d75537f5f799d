// Shared by the files of the emulated driver: status codes, the guard at the start of every exported call, streams and their
// work, captures, objects behind handles. One device and its primary context; leaves out contexts made by cuCtxCreate,
// textures, peer access, virtual memory and pools. The path of a launch: ../README.md.
#pragma once
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "../engine.h"

#define API extern "C" __attribute__((visibility("default")))

namespace emulator::driver {

// The CUresult values that are returned here.
enum Status : int {
  success = 0,
  invalid_value = 1,
  out_of_memory = 2,
  not_initialized = 3,
  invalid_device = 101,
  invalid_image = 200,
  invalid_context = 201,
  no_binary_for_gpu = 209,
  invalid_ptx = 218,
  invalid_handle = 400,
  illegal_state = 401,
  not_found = 500,
  not_ready = 600,
  illegal_address = 700,
  launch_out_of_resources = 701,
  host_memory_already_registered = 712,
  host_memory_not_registered = 713,
  misaligned_address = 716,
  launch_failed = 719,
  not_supported = 801,
  capture_unsupported = 900,
  capture_invalidated = 901,
  capture_merge = 902,
  capture_unmatched = 903,
  capture_unjoined = 904,
  capture_isolation = 905,
  capture_implicit = 906,
  captured_event = 907,
  capture_wrong_thread = 908,
};

using Handle = void*;

enum class Needs { nothing, initialized, context };

// First in every exported function: serializes calls, counts them by name, and rejects what the driver rejects.
class Call {
 public:
  Call(const char* name, Needs needs);
  Status status;

 private:
  std::lock_guard<std::recursive_mutex> lock;
};

#define BEGIN_CALL(needs)                          \
  ::emulator::driver::Call call_(__func__, needs); \
  if (call_.status) return call_.status

// --- settings and the device

struct DriverSettings {
  bool lazy = false;
  uint64_t memory = 8ull << 30;
  int compute_capability = 80;
};
DriverSettings& driver_settings();
int device_attribute(int attribute);  // -1 for one that doesn't exist

enum DeviceAttribute { shared_per_block = 8, shared_per_block_optin = 97 };

// --- what streams run

struct Range {
  uint64_t address = 0, size = 0;
  bool overlaps(const Range& other) const {
    return size && other.size && address < other.address + other.size && other.address < address + size;
  }
};

// CUgraphNodeType
enum class NodeType : int { kernel = 0, copy = 1, set = 2, graph = 4, empty = 5 };

// A kernel, copy, fill or another library's work. It can run many times, as graph nodes do.
struct Operation {
  NodeType type = NodeType::empty;
  std::string name;
  std::function<void()> run;
  Range host_source, host_target;       // pinned memory that it reads or writes
  std::vector<Range> more_sources, more_targets;  // of a whole graph
};

struct Stream;

// The work of a stream up to and including number `sequence`.
struct Point {
  std::shared_ptr<Stream> stream;
  uint64_t sequence = 0;
};

// One recording of an event.
struct Record {
  Point point;
  bool done = false;
  double milliseconds = 0;
};

// Pinned memory that queued work will read or write: the host must not touch it until then.
struct Watch {
  Range range;
  bool writes = false;
  bool verify = false;  // compare with `hash` when the work runs
  uint64_t hash = 0;
  std::string operation;
};

struct Entry {
  std::shared_ptr<const Operation> operation;  // null if it only orders
  std::vector<Point> after;
  std::vector<std::list<Watch>::iterator> watches;
  std::shared_ptr<Record> record;
};

struct Capture;

struct Stream : std::enable_shared_from_this<Stream> {
  unsigned flags = 0;
  bool legacy = false, destroyed = false;
  std::deque<Entry> queue;
  uint64_t submitted = 0, completed = 0;
  std::shared_ptr<Capture> capture;
  std::vector<uint32_t> tail;  // nodes that the next captured node depends on
  bool blocking() const { return !legacy && !(flags & 1); }
};

struct Event {
  unsigned flags = 0;
  std::shared_ptr<Record> record;
  std::shared_ptr<Capture> capture;  // where it was last recorded in a capturing stream
  std::vector<uint32_t> nodes;
};

// Null if the handle is not a stream of this context.
std::shared_ptr<Stream> find_stream(Handle);
std::shared_ptr<Event> find_event(Handle);
const std::vector<std::shared_ptr<Stream>>& all_streams();

// Queues work, or adds it to the graph that the stream captures. `after`: additional points to wait for.
Status submit(const std::shared_ptr<Stream>&, std::shared_ptr<const Operation>, std::vector<Point> after = {});
// Runs the stream's queued work up to `sequence`, and everything that waits for.
void run_until(Stream&, uint64_t sequence);
// Marks this point of the stream; makes the stream wait for another stream's point.
void record(const std::shared_ptr<Stream>&, std::shared_ptr<Record>);
void wait_for(const std::shared_ptr<Stream>&, const Point&);
// A call that waits for a stream or for the whole context.
void wait_stream(const std::shared_ptr<Stream>&);
void wait_all();
// Reports queued copies that still use the host memory.
void report_early_free(const Range&);
// Whether the stream waits implicitly for a capturing one, which is illegal and ends the capture.
Status check_implicit(Stream&);

// Kernels and library calls that ran, by name.
std::map<std::string, uint64_t>& executed();

// --- capture and graphs

struct Node {
  std::shared_ptr<const Operation> operation;
  std::vector<uint32_t> dependencies;
};

struct Graph {
  std::vector<Node> nodes;
  std::vector<std::unique_ptr<char>> handles;  // one address per node, returned by cuGraphGetNodes
};

struct Capture {
  std::shared_ptr<Graph> graph = std::make_shared<Graph>();
  int mode = 0;
  bool invalid = false;
  Stream* origin = nullptr;
  std::thread::id thread;
};

void invalidate(const std::shared_ptr<Capture>&);
// For calls that wait or allocate: rejected while a capture forbids them, which also ends the capture.
Status forbid_capture();
// A stream that waits for an event of a capture joins it.
Status join_capture(Stream&, const Event&);
Status add_node(Stream&, std::shared_ptr<const Operation>);
Handle register_graph(std::shared_ptr<Graph>);

// --- memory

struct HostBuffer {
  uint64_t address = 0, size = 0;
  unsigned flags = 0;
  bool registered = false;  // the program's own memory, made pinned
};
// Device memory: an allocation, or a module's global once it was requested.
bool inside_allocation(uint64_t address, uint64_t size);
// The pinned buffer that contains the whole range, or null.
const HostBuffer* find_pinned(uint64_t address, uint64_t size);
uint64_t memory_in_use();
// Device memory that a copy, a fill or a library has just written: kernels may now read it without a report.
void note_written(uint64_t address, uint64_t size);

// A mapping between inaccessible pages, filled with 0xff; `size` bytes from `address`, which is 256-aligned.
struct Mapping {
  char* base = nullptr;
  size_t length = 0;
  uint64_t address = 0, size = 0;
  bool slack_intact() const;  // bytes between the pages' ends and the allocation
  void discard();             // the range stays reserved, so that a late access faults
};
bool map_filled(uint64_t size, bool flush_right, Mapping* mapping);

// --- modules

struct Function {
  const Kernel* kernel = nullptr;
  int dynamic_shared_limit = 0;
  int carveout = -1;
};
std::shared_ptr<Function> find_function(Handle);
bool inside_module_global(uint64_t address, uint64_t size);

// --- context

struct Context {
  int retained = 0;
  Status sticky = success;  // the fault after which every call fails
};
Context& context();
void set_sticky(Status);
// Frees what the context holds: at its last release, or at a reset. `leaks` names the objects that were still alive.
void destroy_objects(std::string* leaks);

struct LiveObjects {
  size_t allocations = 0, pinned = 0, streams = 0, events = 0, modules = 0, graphs = 0, executables = 0, handles = 0;
  size_t total() const { return allocations + pinned + streams + events + modules + graphs + executables + handles; }
};
LiveObjects live_objects();
std::map<std::string, int>& library_objects();  // of cuBLAS and cuBLASLt, by library
void count_streams(LiveObjects*);
void count_events(LiveObjects*);
void count_memory(LiveObjects*);
void count_modules(LiveObjects*);
void count_graphs(LiveObjects*);
void clear_streams();
void clear_events();
void clear_memory();
void clear_modules();
void clear_graphs();

std::map<std::string, uint64_t>& calls_by_name();

}  // namespace emulator::driver
