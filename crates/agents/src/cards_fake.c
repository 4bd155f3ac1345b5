// The part of NVIDIA's management library that is used, as a machine with two cards would have it; for tests.
#include <string.h>

typedef unsigned int u32;
typedef unsigned long long u64;

enum { SUCCESS = 0, INVALID = 2, NOT_SUPPORTED = 3, TOO_SMALL = 7 };
#define GIB (1ull << 30)

static int cards[2] = {0, 1};

int nvmlInit_v2(void) { return SUCCESS; }
int nvmlInitWithFlags(u32 flags) { (void)flags; return SUCCESS; }
int nvmlShutdown(void) { return SUCCESS; }
int nvmlDeviceGetCount_v2(u32 *count) { *count = 2; return SUCCESS; }

int nvmlDeviceGetHandleByIndex_v2(u32 index, void **device) {
  if (index > 1) return INVALID;
  *device = &cards[index];
  return SUCCESS;
}

static int is_first(void *device) { return *(int *)device == 0; }

int nvmlDeviceGetName(void *device, char *name, u32 length) {
  strncpy(name, is_first(device) ? "NVIDIA GeForce RTX 4090" : "NVIDIA GeForce RTX 3060", length);
  return SUCCESS;
}

struct memory { u32 version; u64 total, reserved, free, used; };
int nvmlDeviceGetMemoryInfo_v2(void *device, struct memory *memory) {
  u64 total = is_first(device) ? 24 * GIB : 12 * GIB, taken = is_first(device) ? 5 * GIB : GIB;
  memory->total = total;
  memory->free = total - taken;
  memory->reserved = GIB / 2;
  memory->used = taken - GIB / 2;
  return SUCCESS;
}

int nvmlDeviceGetClockInfo(void *device, int clock, u32 *mhz) {
  if (!is_first(device)) return NOT_SUPPORTED;
  *mhz = clock == 1 ? 2520 : 1;
  return SUCCESS;
}

int nvmlDeviceGetTemperature(void *device, int sensor, u32 *celsius) {
  if (!is_first(device) || sensor != 0) return NOT_SUPPORTED;
  *celsius = 61;
  return SUCCESS;
}

int nvmlDeviceGetNumGpuCores(void *device, u32 *cores) {
  *cores = is_first(device) ? 16384 : 3584;
  return SUCCESS;
}

int nvmlDeviceGetCudaComputeCapability(void *device, int *major, int *minor) {
  *major = 8;
  *minor = is_first(device) ? 9 : 6;
  return SUCCESS;
}

struct process { u32 pid; u64 bytes; u32 instance, compute_instance; };
static int list(const struct process *all, u32 length, u32 *count, struct process *out) {
  if (*count < length) {
    *count = length;
    return TOO_SMALL;
  }
  memcpy(out, all, length * sizeof *all);
  *count = length;
  return SUCCESS;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *device, u32 *count, struct process *out) {
  static const struct process all[] = {{PID, GIB, ~0u, ~0u}};
  return is_first(device) ? list(all, 1, count, out) : NOT_SUPPORTED;
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(void *device, u32 *count, struct process *out) {
  // The last one's memory is not known.
  static const struct process all[] = {{PID, GIB, ~0u, ~0u}, {42, GIB / 2, ~0u, ~0u}, {43, ~0ull, ~0u, ~0u}};
  return is_first(device) ? list(all, 3, count, out) : NOT_SUPPORTED;
}
