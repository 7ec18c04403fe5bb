/*
 * The extension pico.capture/1: the stream's work between begin and end becomes a CUDA graph. Launch
 * refuses graphs from before the last reserve: their scratch memory may be gone.
 */
#include <stdlib.h>

#include "cuda.h"

struct pico_recording {
    cudaGraphExec_t graph;
    uint32_t generation;
};

static pico_status capture_begin(void *self, pico_error *err) {
    cuda_backend *cuda = cuda_enter(self);
    if (cuda->capturing) {
        return pico_fail(err, PICO_E_INVALID, CUDA_SAYS "begin within begin");
    }
    const cudaError_t error =
        cudaStreamBeginCapture(cuda->stream, cudaStreamCaptureModeThreadLocal);
    if (error != cudaSuccess) {
        return cuda_fail(err, error, "cudaStreamBeginCapture");
    }
    cuda->capturing = 1;
    return PICO_OK;
}

static pico_status capture_end(void *self, uint32_t keep, pico_recording **out, pico_error *err) {
    cuda_backend *cuda = cuda_enter(self);
    cudaGraph_t graph = NULL;
    *out = NULL;
    if (!cuda->capturing) {
        return pico_fail(err, PICO_E_INVALID, CUDA_SAYS "end without begin");
    }
    cuda->capturing = 0;
    const char *call = "cudaStreamEndCapture";
    cudaError_t error = cudaStreamEndCapture(cuda->stream, &graph);
    pico_recording *recording = NULL;
    if (cuda->failure != cudaSuccess) { /* an op is missing in the graph */
        call = cuda->failed;
        error = cuda->failure;
        cuda->failure = cudaSuccess;
    }
    if (error == cudaSuccess && keep) {
        recording = calloc(1, sizeof *recording);
        if (recording == NULL) {
            (void)cudaGraphDestroy(graph);
            return pico_fail(err, PICO_E_NOMEM, CUDA_SAYS "no host memory for a recording");
        }
        recording->generation = cuda->generation;
        call = "cudaGraphInstantiate";
        error = cudaGraphInstantiate(&recording->graph, graph, 0);
    }
    if (graph != NULL) {
        (void)cudaGraphDestroy(graph);
    }
    if (error != cudaSuccess) {
        free(recording);
        return cuda_fail(err, error, call);
    }
    *out = recording;
    return PICO_OK;
}

static pico_status capture_launch(void *self, const pico_recording *recording) {
    cuda_backend *cuda = cuda_enter(self);
    if (recording->generation != cuda->generation) {
        return PICO_E_LIMIT;
    }
    return cuda_done(cuda, cudaGraphLaunch(recording->graph, cuda->stream), "cudaGraphLaunch");
}

static void capture_free(void *self, pico_recording *recording) {
    cuda_backend *cuda = cuda_enter(self);
    if (recording != NULL) {
        (void)cuda_done(cuda, cudaStreamSynchronize(cuda->stream), "free of a recording");
        (void)cudaGraphExecDestroy(recording->graph);
        free(recording);
    }
}

const pico_capture_ops cuda_capture_table = {.struct_size = sizeof(pico_capture_ops),
                                             .begin = capture_begin,
                                             .end = capture_end,
                                             .launch = capture_launch,
                                             .free = capture_free};
