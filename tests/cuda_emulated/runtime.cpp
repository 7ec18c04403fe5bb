/* Memory, streams, events and graphs of the emulated device; see emulated.h. */
#include "emulated.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "device.h"

typedef std::function<void()> job;

struct emulated_graph {
    std::shared_ptr<std::vector<job>> jobs;
};

struct emulated_stream {
    std::vector<job> queue;
    std::shared_ptr<std::vector<job>> capture; /* empty: not capturing */
};

struct emulated_event {
    cudaStream_t stream;
};

namespace {

constexpr size_t arena_bytes = size_t(1) << 32;
#ifdef EMULATED_ASAN
constexpr size_t guard_bytes = 0; /* its red zones do better */
#else
constexpr size_t guard_bytes = 256;
#endif

struct allocation {
    size_t bytes;
    char *raw;
};

struct device_state {
    std::map<char *, allocation> memory;
    size_t used = 0;
    char *arena = nullptr; /* protect: everything lies in it */
    size_t arena_used = 0;
    std::map<size_t, std::vector<char *>> spare; /* pieces of it that were given back, by size */
    int open = 0;                                /* depth of kernels and copies */
    cudaError_t last = cudaSuccess;
};

device_state &device() {
    static device_state state;
    return state;
}

emulated_options read_settings() {
    emulated_options out = {false, false, false, false, false, size_t(2) << 30, -1, 90};
    const char *text = getenv("PICOCHAT_EMULATED_CUDA");
    std::string rest = text == nullptr ? "" : text;
    while (!rest.empty()) {
        size_t end = rest.find(',');
        std::string word = rest.substr(0, end);
        rest = end == std::string::npos ? "" : rest.substr(end + 1);
        out.reverse |= word == "reverse";
        out.mixed |= word == "mixed";
        out.protect |= word == "protect";
        out.no_driver |= word == "nodriver";
        out.no_device |= word == "nodevice";
        if (word.compare(0, 7, "memory=") == 0) {
            out.memory = strtoull(word.c_str() + 7, nullptr, 10) << 20;
        }
        if (word.compare(0, 5, "fail=") == 0) {
            out.fail = strtol(word.c_str() + 5, nullptr, 10);
        }
        if (word.compare(0, 11, "capability=") == 0) {
            out.capability = static_cast<int>(strtol(word.c_str() + 11, nullptr, 10));
        }
    }
    return out;
}

cudaError_t fails(cudaError_t error) {
    device().last = error;
    return error;
}

void reach(bool open) {
    device_state &d = device();
    if (!emulated_settings().protect || d.arena == nullptr) {
        return;
    }
    d.open += open ? 1 : -1;
    if (d.open == (open ? 1 : 0)) {
        mprotect(d.arena, d.arena_used, open ? PROT_READ | PROT_WRITE : PROT_NONE);
    }
}

/* Bytes of an allocation in the arena, guards included: powers of two, so that pieces are used again. */
size_t arena_size(size_t bytes) {
    size_t size = 4096;
    while (size < bytes + 2 * guard_bytes) {
        size *= 2;
    }
    return size;
}

char *take(size_t bytes) {
    device_state &d = device();
    if (!emulated_settings().protect) {
        void *raw = nullptr;
        return posix_memalign(&raw, 256, bytes + 2 * guard_bytes + (bytes == 0)) == 0
                   ? static_cast<char *>(raw)
                   : nullptr;
    }
    if (d.arena == nullptr) {
        void *memory = mmap(nullptr, arena_bytes, PROT_NONE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        d.arena = memory == MAP_FAILED ? nullptr : static_cast<char *>(memory);
    }
    size_t size = arena_size(bytes);
    std::vector<char *> &spare = d.spare[size];
    if (!spare.empty()) {
        char *raw = spare.back();
        spare.pop_back();
        mprotect(raw, size, PROT_READ | PROT_WRITE);
        return raw;
    }
    if (d.arena == nullptr || size > arena_bytes - d.arena_used) {
        return nullptr;
    }
    char *raw = d.arena + d.arena_used;
    d.arena_used += size;
    mprotect(raw, size, PROT_READ | PROT_WRITE);
    return raw;
}

void give(const allocation &a) {
    if (!emulated_settings().protect) {
        free(a.raw);
    } else {
        device().spare[arena_size(a.bytes)].push_back(a.raw);
    }
}

/* The bytes around an allocation must be what they were. */
void check_guards(const char *start, const allocation &a) {
    for (size_t i = 0; i < guard_bytes; i++) {
        if (static_cast<unsigned char>(start[-1 - static_cast<long>(i)]) != 0xa5 ||
            static_cast<unsigned char>(start[a.bytes + i]) != 0xa5) {
            fprintf(stderr, "emulated CUDA: something wrote beside %zu bytes of device memory\n",
                    a.bytes);
            abort();
        }
    }
}

/* Whether [pointer, pointer + bytes) is one piece of device memory. */
bool on_device(const void *pointer, size_t bytes) {
    char *p = static_cast<char *>(const_cast<void *>(pointer));
    auto next = device().memory.upper_bound(p);
    if (next == device().memory.begin()) {
        return false;
    }
    --next;
    return p >= next->first && p + bytes <= next->first + next->second.bytes;
}

void run(cudaStream_t stream) {
    reach(true);
    for (size_t i = 0; i < stream->queue.size(); i++) {
        stream->queue[i]();
    }
    stream->queue.clear();
    reach(false);
}

} // namespace

const emulated_options &emulated_settings() {
    static const emulated_options settings = read_settings();
    return settings;
}

void emulated_set_error(int error) {
    device().last = static_cast<cudaError_t>(error);
}

void emulated_call(cudaStream_t stream, std::function<void()> body) {
    (stream->capture ? *stream->capture : stream->queue).push_back(std::move(body));
}

extern "C" {

cudaError_t cudaDriverGetVersion(int *version) {
    *version = emulated_settings().no_driver ? 0 : 13000;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version) {
    *version = 13000;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *count) {
    *count = 0;
    if (emulated_settings().no_driver) {
        return fails(cudaErrorInsufficientDriver);
    }
    if (emulated_settings().no_device) {
        return fails(cudaErrorNoDevice);
    }
    *count = 1;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int index) {
    return index == 0 ? cudaSuccess : fails(cudaErrorInvalidDevice);
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *out, int index) {
    if (index != 0) {
        return fails(cudaErrorInvalidDevice);
    }
    memset(out, 0, sizeof *out);
    memcpy(out->name, "emulated", sizeof "emulated");
    out->totalGlobalMem = emulated_settings().memory;
    out->major = emulated_settings().capability / 10;
    out->minor = emulated_settings().capability % 10;
    out->multiProcessorCount = 4;
    out->sharedMemPerBlockOptin = emulated_shared_bytes();
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes) {
    *total_bytes = emulated_settings().memory;
    *free_bytes = *total_bytes - device().used;
    return cudaSuccess;
}

const char *cudaGetErrorString(cudaError_t error) {
    switch (error) {
    case cudaSuccess:
        return "no error";
    case cudaErrorMemoryAllocation:
        return "out of memory";
    case cudaErrorInsufficientDriver:
        return "CUDA driver version is insufficient for CUDA runtime version";
    case cudaErrorNoDevice:
        return "no CUDA-capable device is detected";
    case cudaErrorLaunchFailure:
        return "unspecified launch failure";
    default:
        return "an emulated error";
    }
}

const char *cudaGetErrorName(cudaError_t error) {
    return error == cudaSuccess ? "cudaSuccess" : "cudaErrorEmulated";
}

cudaError_t cudaGetLastError(void) {
    cudaError_t error = device().last;
    device().last = cudaSuccess;
    return error;
}

cudaError_t cudaMalloc(void **out, size_t bytes) {
    device_state &d = device();
    *out = nullptr;
    if (bytes > emulated_settings().memory - d.used) {
        return fails(cudaErrorMemoryAllocation);
    }
    allocation a = {bytes, nullptr};
    a.raw = take(bytes);
    if (a.raw == nullptr) {
        return fails(cudaErrorMemoryAllocation);
    }
    char *start = a.raw + guard_bytes;
    memset(start - guard_bytes, 0xa5, guard_bytes);
    memset(start, 0xff, bytes); /* NaN */
    memset(start + bytes, 0xa5, guard_bytes);
    d.memory[start] = a;
    d.used += bytes;
    if (emulated_settings().protect && d.open == 0) {
        mprotect(d.arena, d.arena_used, PROT_NONE);
    }
    *out = start;
    return cudaSuccess;
}

cudaError_t cudaFree(void *pointer) {
    device_state &d = device();
    if (pointer == nullptr) {
        return cudaSuccess;
    }
    auto found = d.memory.find(static_cast<char *>(pointer));
    if (found == d.memory.end()) {
        return fails(cudaErrorInvalidValue);
    }
    reach(true);
    check_guards(found->first, found->second);
    d.used -= found->second.bytes;
    give(found->second);
    d.memory.erase(found);
    reach(false);
    return cudaSuccess;
}

cudaError_t cudaMallocHost(void **out, size_t bytes) {
    *out = malloc(bytes == 0 ? 1 : bytes);
    return *out == nullptr ? fails(cudaErrorMemoryAllocation) : cudaSuccess;
}

cudaError_t cudaFreeHost(void *pointer) {
    free(pointer);
    return cudaSuccess;
}

/* From host memory that is not page-locked the bytes are taken at once, as CUDA promises; this
 * emulation takes them late from all host memory, so that a buffer which is used again too early
 * shows itself. */
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
    bool bad = (kind != cudaMemcpyDeviceToHost && !on_device(to, bytes)) ||
               (kind != cudaMemcpyHostToDevice && !on_device(from, bytes));
    if (bad) {
        return fails(cudaErrorInvalidValue);
    }
    emulated_call(stream, [=]() { memmove(to, from, bytes); });
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t stream) {
    if (!on_device(to, bytes)) {
        return fails(cudaErrorInvalidValue);
    }
    emulated_call(stream, [=]() { memset(to, value, bytes); });
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned flags) {
    (void)flags;
    *out = new emulated_stream;
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    run(stream);
    delete stream;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    if (stream->capture) {
        return fails(cudaErrorStreamCaptureUnsupported);
    }
    run(stream);
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned flags) {
    (void)flags;
    *out = new emulated_event{nullptr};
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    delete event;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    if (stream->capture) {
        return fails(cudaErrorStreamCaptureUnsupported);
    }
    event->stream = stream;
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    return event->stream == nullptr ? cudaSuccess : cudaStreamSynchronize(event->stream);
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
    (void)mode;
    if (stream->capture) {
        return fails(cudaErrorStreamCaptureUnsupported);
    }
    stream->capture = std::make_shared<std::vector<job>>();
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *out) {
    *out = nullptr;
    if (!stream->capture) {
        return fails(cudaErrorInvalidValue);
    }
    *out = new emulated_graph{stream->capture};
    stream->capture.reset();
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph,
                                 unsigned long long flags) {
    (void)flags;
    *out = new emulated_graph{graph->jobs};
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
    if (stream->capture) {
        return fails(cudaErrorStreamCaptureUnsupported);
    }
    stream->queue.insert(stream->queue.end(), graph->jobs->begin(), graph->jobs->end());
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    delete graph;
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
    delete graph;
    return cudaSuccess;
}

} // extern "C"
