/*
 * Finding a device and saying what is wrong: no driver, no device, out of memory, a failed call.
 * libcuda is loaded by the static CUDA runtime when it is first asked, never linked.
 */
#include <string.h>

#include "cuda.h"
#include "fuse.h"
#include "gemm.h"
#include "train.h"

pico_status cuda_fail(pico_error *err, cudaError_t error, const char *call) {
    const pico_status status = error == cudaErrorMemoryAllocation ? PICO_E_NOMEM : PICO_E_DEVICE;
    return pico_fail(err, status, CUDA_SAYS "%s: %s", call, cudaGetErrorString(error));
}

pico_status cuda_no_memory(pico_error *err, uint64_t bytes, const char *what) {
    size_t spare = 0, all = 0;
    (void)cudaGetLastError(); /* what failed is told here, not by the next launch */
    if (cudaMemGetInfo(&spare, &all) != cudaSuccess) {
        return pico_fail(err, PICO_E_NOMEM, CUDA_SAYS "no device memory for %llu bytes of %s",
                         (unsigned long long)bytes, what);
    }
    return pico_fail(err, PICO_E_NOMEM,
                     CUDA_SAYS "no device memory for %llu bytes of %s: %llu of %llu MB are free",
                     (unsigned long long)bytes, what, (unsigned long long)(spare >> 20),
                     (unsigned long long)(all >> 20));
}

pico_status cuda_done(cuda_backend *cuda, cudaError_t error, const char *call) {
    if (error == cudaSuccess && cuda->options.sync && !cuda->capturing) {
        error = cudaStreamSynchronize(cuda->stream);
    }
    if (error == cudaSuccess) {
        return PICO_OK;
    }
    if (cuda->failure == cudaSuccess) { /* the first one is the cause */
        cuda->failure = error;
        (void)snprintf(cuda->failed, sizeof cuda->failed, "%s", call);
    }
    return PICO_OK;
}

cuda_backend *cuda_enter_fusing(void *self) {
    cuda_backend *cuda = self;
    cuda->n_op++;
    const cudaError_t error = cudaSetDevice((int)cuda->options.device);
    if (error != cudaSuccess) {
        (void)cuda_done(cuda, error, "cudaSetDevice");
    }
    return cuda;
}

cuda_backend *cuda_enter(void *self) {
    cuda_backend *cuda = cuda_enter_fusing(self);
    cuda_flush(cuda);
    return cuda;
}

pico_status cuda_wait(cuda_backend *cuda, pico_error *err) {
    cuda_flush(cuda);
    const cudaError_t waited = cudaStreamSynchronize(cuda->stream);
    const cudaError_t first = cuda->failure;
    if (first == cudaSuccess && waited == cudaSuccess) {
        return PICO_OK;
    }
    cuda->failure = cudaSuccess;
    (void)cudaGetLastError();
    if (first != cudaSuccess) {
        return cuda_fail(err, first, cuda->failed);
    }
    return cuda_fail(err, waited,
                     cuda->options.sync ? "waiting"
                                        : "waiting (backend." CUDA_NAME ".sync = on names the op)");
}

static pico_status find_device(const cuda_backend *cuda, struct cudaDeviceProp *out,
                               pico_error *err) {
    int driver = 0, runtime = 0, count = 0;
    (void)cudaDriverGetVersion(&driver);
    (void)cudaRuntimeGetVersion(&runtime);
    const cudaError_t error = cudaGetDeviceCount(&count);
    (void)cudaGetLastError();
    if (driver == 0) {
        return pico_fail(err, PICO_E_DEVICE,
                         CUDA_SAYS
                         "no CUDA driver on this machine (libcuda.so.1 cannot be loaded)");
    }
    if (error == cudaErrorInsufficientDriver) {
        return pico_fail(err, PICO_E_DEVICE,
                         CUDA_SAYS "the CUDA driver is too old: it knows CUDA %d.%d, this plugin "
                                   "was built with %d.%d",
                         driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
    }
    if (error == cudaErrorNoDevice || (error == cudaSuccess && count == 0)) {
        return pico_fail(err, PICO_E_DEVICE, CUDA_SAYS "no CUDA device on this machine");
    }
    if (error != cudaSuccess) {
        return cuda_fail(err, error, "cudaGetDeviceCount");
    }
    if (cuda->options.device >= count) {
        return pico_fail(err, PICO_E_DEVICE,
                         CUDA_SAYS "there is no device %lld; this machine has 0 to %d",
                         (long long)cuda->options.device, count - 1);
    }
    const cudaError_t asked = cudaGetDeviceProperties(out, (int)cuda->options.device);
    if (asked != cudaSuccess) {
        return cuda_fail(err, asked, "cudaGetDeviceProperties");
    }
    if (out->major * 10 + out->minor < 75) {
        return pico_fail(err, PICO_E_DEVICE,
                         CUDA_SAYS "%.60s has compute capability %d.%d; at least 7.5 is needed",
                         out->name, out->major, out->minor);
    }
    return PICO_OK;
}

static cudaEvent_t *event_of(cuda_staging *staging, int i) {
    return i < CUDA_SLOTS ? &staging->done[i] : &staging->came[i - CUDA_SLOTS];
}

pico_status cuda_open_device(cuda_backend *cuda, pico_error *err) {
    struct cudaDeviceProp prop;
    void *memory = NULL;
    pico_status status = find_device(cuda, &prop, err);
    if (status != PICO_OK) {
        return status;
    }
    const char *call = "cudaSetDevice";
    cudaError_t error = cudaSetDevice((int)cuda->options.device);
    if (error == cudaSuccess) {
        call = "cudaStreamCreateWithFlags";
        error = cudaStreamCreateWithFlags(&cuda->stream, cudaStreamNonBlocking);
    }
    if (error == cudaSuccess) {
        call = "cudaMallocHost";
        error = cudaMallocHost(&memory,
                               (size_t)CUDA_SLOTS * CUDA_SLOT_BYTES + (size_t)2 * CUDA_READ_BYTES);
        cuda->staging.memory = memory;
    }
    for (int i = 0; error == cudaSuccess && i < CUDA_SLOTS + 2; i++) {
        call = "cudaEventCreateWithFlags";
        error = cudaEventCreateWithFlags(event_of(&cuda->staging, i), cudaEventDisableTiming);
    }
    if (error != cudaSuccess) {
        return cuda_fail(err, error, call);
    }
    cuda->staging.read = cuda->staging.memory + (size_t)CUDA_SLOTS * CUDA_SLOT_BYTES;
    cuda->n_multiprocessor = (uint32_t)prop.multiProcessorCount;
    cuda->block_shared = (uint32_t)prop.sharedMemPerBlockOptin;
    cuda->capability = (uint32_t)(prop.major * 10 + prop.minor);
    (void)snprintf(cuda->device, sizeof cuda->device, "%.60s, sm_%d%d%s", prop.name, prop.major,
                   prop.minor, cuda->options.deterministic ? ", deterministic" : "");
    return cuda_gemm_open(cuda, err);
}

void cuda_close_device(cuda_backend *cuda) {
    if (cuda->stream != NULL) {
        (void)cudaStreamSynchronize(cuda->stream);
    }
    cuda_train_free(cuda);
    cuda_gemm_close(cuda);
    (void)cudaFree(cuda->scratch.memory);
    for (int i = 0; i < CUDA_SLOTS + 2; i++) {
        if (*event_of(&cuda->staging, i) != NULL) {
            (void)cudaEventDestroy(*event_of(&cuda->staging, i));
        }
    }
    if (cuda->staging.memory != NULL) {
        (void)cudaFreeHost(cuda->staging.memory);
    }
    if (cuda->stream != NULL) {
        (void)cudaStreamDestroy(cuda->stream);
    }
}
