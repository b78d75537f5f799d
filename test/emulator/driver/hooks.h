// What the other emulated libraries ask of the emulated driver, exported by libcuda.so.1 beside the driver's own names.
#pragma once
#include <cstddef>
#include <cstdint>

extern "C" {
// 0, or the CUresult that a driver call on this thread would return now.
int emulator_hook_status();
// Whether the bytes lie inside one live device allocation.
int emulator_hook_inside(uint64_t address, uint64_t size);
// Device memory that work has just written.
void emulator_hook_written(uint64_t address, uint64_t size);
// Queues (or captures) work on a stream; `data` is copied now and handed to `run` each time the work runs.
int emulator_hook_submit(void* stream, const char* name, void (*run)(const void* data), const void* data, size_t size);
// Counts a call of the library's.
void emulator_hook_count(const char* name);
bool emulator_hook_capturing(void* stream);
// A fault of work that runs: the context is lost, every later call returns the status.
void emulator_hook_fault(int status);
void emulator_hook_report(const char* kind, const char* name, const char* text);
int emulator_hook_compute_capability();
// How tensor cores add up: products a step and extra bits (emulator::Accumulation).
void emulator_hook_accumulation(int* products, int* extra_bits);
// +1 and -1 as the library's handles come and go.
void emulator_hook_live(const char* kind, int change);
}
