// Functions of the emulated driver for the other emulated libraries, exported by libcuda.so.1 beside the driver's own names.
#pragma once
#include <cstddef>
#include <cstdint>

extern "C" {
// 0, or the CUresult that a driver call on this thread would return now.
int emulator_hook_status();
// Whether the bytes are inside one live device allocation.
int emulator_hook_inside(uint64_t address, uint64_t size);
// Marks device memory as just written.
void emulator_hook_written(uint64_t address, uint64_t size);
// Queues (or captures) work on a stream; `data` is copied now and passed to `run` each time the work runs.
int emulator_hook_submit(void* stream, const char* name, void (*run)(const void* data), const void* data, size_t size);
// Counts a call of the library.
void emulator_hook_count(const char* name);
bool emulator_hook_capturing(void* stream);
// A fault in running work: the context is lost, and every later call returns the status.
void emulator_hook_fault(int status);
void emulator_hook_report(const char* kind, const char* name, const char* text);
int emulator_hook_compute_capability();
// How tensor cores add up: products per step and extra bits (emulator::Accumulation).
void emulator_hook_accumulation(int* products, int* extra_bits);
// +1 and -1 as the library's handles are created and destroyed.
void emulator_hook_live(const char* kind, int change);
}
