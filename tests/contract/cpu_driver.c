// NVIDIA's driver, on the CPU: as much of it as the TensorRT engine reaches through pycuda and by itself.
// Memory is malloc'd, streams run at once, kernels are the C of letterbox.cu, graphs remember what was queued.
// It counts what is alive, and refuses what the real one would: work without a context, memory that it did not give.

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define __global__ static
#define __device__
static struct { int x, y, z; } threadIdx, blockIdx, blockDim;
#include "letterbox.cu"

typedef struct { int kind; void *to; const void *from; size_t size; int count; } Queued;
enum { COPY, ENGINE, DEPTH = 16, MOST = 64, NO_CONTEXT = 201, INVALID = 1 };

int mf_alive, mf_graphs_launched, mf_kernels, mf_copies, mf_contexts;
static __thread void *stack[DEPTH];
static __thread int depth;
static int capturing, queued;
static Queued queue[MOST];

#define IN_CONTEXT if (!depth) return NO_CONTEXT

int cuInit(unsigned flags) { return 0; }
int cuDriverGetVersion(int *version) { *version = 13000; return 0; }
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return 0; }
int cuDeviceComputeCapability(int *major, int *minor, int device) { *major = 8; *minor = 9; return 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = &mf_contexts; ++mf_contexts; return 0; }
int cuDevicePrimaryCtxRelease_v2(int device) { --mf_contexts; return 0; }
int cuCtxPushCurrent_v2(void *context) { stack[depth++] = context; return 0; }
int cuCtxPopCurrent_v2(void **context) { IN_CONTEXT; *context = stack[--depth]; return 0; }
int cuCtxSynchronize(void) { return 0; }
int cuGetErrorString(int code, const char **text) { *text = "an error of the stand-in"; return 0; }

int cuMemAlloc_v2(uint64_t *address, size_t size)
{
    IN_CONTEXT;
    *address = (uint64_t)(uintptr_t)malloc(size);
    ++mf_alive;
    return 0;
}
int cuMemFree_v2(uint64_t address) { IN_CONTEXT; free((void *)(uintptr_t)address); --mf_alive; return 0; }
int cuMemHostAlloc(void **pointer, size_t size, unsigned flags)
{
    IN_CONTEXT;
    *pointer = malloc(size);
    ++mf_alive;
    return 0;
}
int cuMemFreeHost(void *pointer) { IN_CONTEXT; free(pointer); --mf_alive; return 0; }

static void run(const Queued *work)
{
    if (work->kind == COPY) {
        memcpy(work->to, work->from, work->size);
        ++mf_copies;
        return;
    }
    // An engine gives the mean of its input, of size values, in each of count values of its output.
    double sum = 0;
    for (size_t i = 0; i < work->size; ++i) sum += ((const float *)work->from)[i];
    for (int i = 0; i < work->count; ++i) ((float *)work->to)[i] = (float)(sum / (double)work->size);
}
static int give(Queued work)
{
    IN_CONTEXT;
    if (capturing) queue[queued++] = work;
    else run(&work);
    return 0;
}
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t size, void *stream)
{
    return give((Queued){COPY, (void *)(uintptr_t)to, from, size});
}
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t size, void *stream)
{
    return give((Queued){COPY, to, (const void *)(uintptr_t)from, size});
}
int mf_engine(uint64_t from, size_t size, uint64_t to, int count)
{
    return give((Queued){ENGINE, (void *)(uintptr_t)to, (const void *)(uintptr_t)from, size, count});
}

int cuStreamCreate(void **stream, unsigned flags) { IN_CONTEXT; *stream = malloc(1); ++mf_alive; return 0; }
int cuStreamDestroy_v2(void *stream) { IN_CONTEXT; free(stream); --mf_alive; return 0; }
int cuStreamSynchronize(void *stream) { IN_CONTEXT; return capturing ? 900 : 0; }
int cuStreamBeginCapture_v2(void *stream, int mode) { IN_CONTEXT; capturing = 1; queued = 0; return mode != 1; }
int cuStreamEndCapture(void *stream, void **graph) { capturing = 0; *graph = queue; ++mf_alive; return 0; }
int cuGraphInstantiateWithFlags(void **executable, void *graph, unsigned long long flags)
{
    *executable = graph;
    ++mf_alive;
    return flags != 0;
}
int cuGraphLaunch(void *executable, void *stream)
{
    IN_CONTEXT;
    for (int i = 0; i < queued; ++i) run(&queue[i]);
    ++mf_graphs_launched;
    return executable != queue;
}
int cuGraphExecDestroy(void *executable) { --mf_alive; return 0; }
int cuGraphDestroy(void *graph) { --mf_alive; return 0; }

int cuModuleLoadDataEx(void **module, const void *image, unsigned options, void *names, void **values)
{
    IN_CONTEXT;
    ++mf_alive;
    *module = &mf_kernels;
    return strstr(image, ".visible .entry letterbox(") ? 0 : INVALID;
}
int cuModuleUnload(void *module) { IN_CONTEXT; --mf_alive; return 0; }
int cuModuleGetFunction(void **function, void *module, const char *name)
{
    *function = module;
    return strcmp(name, "letterbox") ? 500 : 0;
}
int cuFuncSetBlockShape(void *function, int x, int y, int z) { return 0; }
int cuLaunchKernel(void *function, unsigned columns, unsigned rows, unsigned deep, unsigned x, unsigned y, unsigned z,
                   unsigned shared, void *stream, void **parameters, void **extra)
{
    IN_CONTEXT;
    struct { const unsigned char *picture; float *input; int n[9]; float mean, scale; } *a = extra[1];
    if (extra[0] != (void *)1 || *(size_t *)extra[3] != 60 || deep != 1 || z != 1) return INVALID;
    blockDim.x = (int)x;
    blockDim.y = (int)y;
    for (blockIdx.y = 0; blockIdx.y < (int)rows; ++blockIdx.y)
        for (blockIdx.x = 0; blockIdx.x < (int)columns; ++blockIdx.x)
            for (threadIdx.y = 0; threadIdx.y < blockDim.y; ++threadIdx.y)
                for (threadIdx.x = 0; threadIdx.x < blockDim.x; ++threadIdx.x)
                    letterbox(a->picture, a->input, a->n[0], a->n[1], a->n[2], a->n[3], a->n[4], a->n[5], a->n[6],
                              a->n[7], a->n[8], a->mean, a->scale);
    ++mf_kernels;
    return 0;
}
