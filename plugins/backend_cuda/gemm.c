/*
 * Products of many rows by cuBLASLt, which is loaded when an instance is made. What a shape needs is
 * found out once and kept in a table of fixed size; the oldest entry makes room for a new one.
 * cuBLASLt counts columns first: c = op(a) op(b) by rows is c^T = op(b)^T op(a)^T by columns.
 * Algorithms that add up in the order in which blocks happen to end are excluded.
 */
#include "gemm.h"

#include <cublasLt.h>
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#define GEMM_PLANS 256
#define GEMM_NARROW_OUT 256u
#define GEMM_WORKSPACE ((size_t)32 << 20)

#define GEMM_TEXT(x) #x
#define GEMM_LIBRARY(major) "libcublasLt.so." GEMM_TEXT(major)

#define GEMM_FUNCTIONS(X)                                                                          \
    X(Create)                                                                                      \
    X(Destroy)                                                                                     \
    X(GetStatusString)                                                                             \
    X(Matmul)                                                                                      \
    X(MatmulAlgoGetHeuristic)                                                                      \
    X(MatmulDescCreate)                                                                            \
    X(MatmulDescDestroy)                                                                           \
    X(MatmulDescSetAttribute)                                                                      \
    X(MatmulPreferenceCreate)                                                                      \
    X(MatmulPreferenceDestroy)                                                                     \
    X(MatmulPreferenceSetAttribute)                                                                \
    X(MatrixLayoutCreate)                                                                          \
    X(MatrixLayoutDestroy)                                                                         \
    X(MatrixLayoutSetAttribute)

#define GEMM_MEMBER(name) __typeof__(&cublasLt##name) name;
#define GEMM_NAME(name) "cublasLt" #name,
typedef struct gemm_library {
    GEMM_FUNCTIONS(GEMM_MEMBER)
} gemm_library;
static const char *const gemm_names[] = {GEMM_FUNCTIONS(GEMM_NAME)};

/* What makes two products the same to cuBLASLt. Compared as bytes: no padding. */
typedef struct gemm_key {
    int64_t m, n, k, lda, ldb, ldc, batch, stride_a, stride_b, stride_c;
    uint32_t type; /* with GEMM_NARROW_OUT */
    uint32_t transpose_a, transpose_b, align_a, align_b, align_c;
} gemm_key;

typedef struct gemm_plan {
    gemm_key key;
    int used;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t a, b, c;
    cublasLtMatmulAlgo_t algo;
} gemm_plan;

struct cuda_gemm_state {
    void *handle; /* of the library */
    gemm_library lt;
    cublasLtHandle_t context;
    cublasLtMatmulPreference_t preference;
    char *workspace;
    gemm_plan plan[GEMM_PLANS];
    uint32_t next; /* the oldest */
};

/* ---- loading ---- */

static pico_status load(struct cuda_gemm_state *gemm, pico_error *err) {
    static const char library[] = GEMM_LIBRARY(CUBLAS_VER_MAJOR);
    gemm->handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    if (gemm->handle == NULL) {
        return pico_fail(err, PICO_E_DEVICE,
                         CUDA_SAYS "cuBLAS is needed and cannot be loaded: %.200s", dlerror());
    }
    void **slot = (void **)(void *)&gemm->lt;
    for (size_t i = 0; i < sizeof gemm_names / sizeof *gemm_names; i++) {
        slot[i] = dlsym(gemm->handle, gemm_names[i]);
        if (slot[i] == NULL) {
            return pico_fail(err, PICO_E_DEVICE, CUDA_SAYS "%s has no %s", library, gemm_names[i]);
        }
    }
    return PICO_OK;
}

static cublasStatus_t set_preference(struct cuda_gemm_state *gemm,
                                     cublasLtMatmulPreferenceAttributes_t what, const void *value,
                                     size_t bytes) {
    return gemm->lt.MatmulPreferenceSetAttribute(gemm->preference, what, value, bytes);
}

static cublasStatus_t open_library(struct cuda_gemm_state *gemm) {
    const uint64_t workspace = GEMM_WORKSPACE;
    const uint32_t reductions =
        CUBLASLT_REDUCTION_SCHEME_MASK & ~(uint32_t)CUBLASLT_REDUCTION_SCHEME_INPLACE;
    cublasStatus_t status = gemm->lt.Create(&gemm->context);
    if (status == CUBLAS_STATUS_SUCCESS) {
        status = gemm->lt.MatmulPreferenceCreate(&gemm->preference);
    }
    if (status == CUBLAS_STATUS_SUCCESS) {
        status = set_preference(gemm, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
                                sizeof workspace);
    }
    if (status == CUBLAS_STATUS_SUCCESS) {
        status = set_preference(gemm, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reductions,
                                sizeof reductions);
    }
    return status;
}

pico_status cuda_gemm_open(cuda_backend *cuda, pico_error *err) {
    struct cuda_gemm_state *gemm = calloc(1, sizeof *gemm);
    if (gemm == NULL) {
        return pico_fail(err, PICO_E_NOMEM, CUDA_SAYS "no host memory for cuBLAS");
    }
    cuda->gemm = gemm;
    pico_status status = load(gemm, err);
    if (status == PICO_OK) {
        status = cuda_device_alloc(GEMM_WORKSPACE, "cuBLAS", &gemm->workspace, err);
    }
    if (status == PICO_OK) {
        const cublasStatus_t answer = open_library(gemm);
        if (answer != CUBLAS_STATUS_SUCCESS) {
            status = pico_fail(err, PICO_E_DEVICE, CUDA_SAYS "cublasLtCreate: %s",
                               gemm->lt.GetStatusString(answer));
        }
    }
    return status;
}

static void drop_plan(struct cuda_gemm_state *gemm, gemm_plan *plan) {
    if (plan->desc != NULL) {
        (void)gemm->lt.MatmulDescDestroy(plan->desc);
    }
    cublasLtMatrixLayout_t *const layouts[] = {&plan->a, &plan->b, &plan->c};
    for (int i = 0; i < 3; i++) {
        if (*layouts[i] != NULL) {
            (void)gemm->lt.MatrixLayoutDestroy(*layouts[i]);
        }
    }
    memset(plan, 0, sizeof *plan);
}

void cuda_gemm_close(cuda_backend *cuda) {
    struct cuda_gemm_state *gemm = cuda->gemm;
    if (gemm == NULL) {
        return;
    }
    for (uint32_t i = 0; i < GEMM_PLANS; i++) {
        drop_plan(gemm, &gemm->plan[i]);
    }
    if (gemm->preference != NULL) {
        (void)gemm->lt.MatmulPreferenceDestroy(gemm->preference);
    }
    if (gemm->context != NULL) {
        (void)gemm->lt.Destroy(gemm->context);
    }
    (void)cudaFree(gemm->workspace);
    free(gemm); /* the library stays loaded: it leaves threads and handlers behind */
    cuda->gemm = NULL;
}

/* ---- plans ---- */

/* The largest power of two up to 256 that divides an address. */
static uint32_t alignment_of(const void *pointer) {
    const uintptr_t bits = (uintptr_t)pointer | 256;
    return (uint32_t)(bits & (~bits + 1));
}

static gemm_key key_of(const cuda_gemm_job *job) {
    gemm_key key;
    memset(&key, 0, sizeof key);
    key.m = job->m;
    key.n = job->n;
    key.k = job->k;
    key.lda = job->lda;
    key.ldb = job->ldb;
    key.ldc = job->ldc;
    key.batch = job->batch > 1 ? job->batch : 1;
    key.stride_a = job->batch > 1 ? job->stride_a : 0;
    key.stride_b = job->batch > 1 ? job->stride_b : 0;
    key.stride_c = job->batch > 1 ? job->stride_c : 0;
    key.type = job->type | (job->narrow_out ? GEMM_NARROW_OUT : 0u);
    key.transpose_a = job->transpose_a;
    key.transpose_b = job->transpose_b;
    key.align_a = alignment_of(job->a);
    key.align_b = alignment_of(job->b);
    key.align_c = alignment_of((const void *)((uintptr_t)job->c | (uintptr_t)job->add));
    return key;
}

/* A matrix of rows as cuBLASLt sees it: rows are columns. */
static cublasStatus_t make_layout(const struct cuda_gemm_state *gemm, cublasLtMatrixLayout_t *out,
                                  cudaDataType type, int64_t rows, int64_t cols, int64_t ld,
                                  int64_t batch, int64_t stride) {
    const int32_t count = (int32_t)batch;
    cublasStatus_t status =
        gemm->lt.MatrixLayoutCreate(out, type, (uint64_t)cols, (uint64_t)rows, ld);
    if (status == CUBLAS_STATUS_SUCCESS && batch > 1) {
        status = gemm->lt.MatrixLayoutSetAttribute(*out, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count,
                                                   sizeof count);
    }
    if (status == CUBLAS_STATUS_SUCCESS && batch > 1) {
        status = gemm->lt.MatrixLayoutSetAttribute(
            *out, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride, sizeof stride);
    }
    return status;
}

static cublasStatus_t describe(const struct cuda_gemm_state *gemm, const gemm_key *key,
                               gemm_plan *plan) {
    const int narrow_out = (key->type & GEMM_NARROW_OUT) != 0;
    const cudaDataType type =
        (key->type & ~GEMM_NARROW_OUT) == CUDA_GEMM_BF16 ? CUDA_R_16BF : CUDA_R_32F;
    const cublasOperation_t op_a = key->transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cublasOperation_t op_b = key->transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N;
    const int ta = key->transpose_a != 0, tb = key->transpose_b != 0;
    cublasStatus_t status = gemm->lt.MatmulDescCreate(&plan->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    if (status == CUBLAS_STATUS_SUCCESS) { /* its first matrix is b */
        status = gemm->lt.MatmulDescSetAttribute(plan->desc, CUBLASLT_MATMUL_DESC_TRANSA, &op_b,
                                                 sizeof op_b);
    }
    if (status == CUBLAS_STATUS_SUCCESS) {
        status = gemm->lt.MatmulDescSetAttribute(plan->desc, CUBLASLT_MATMUL_DESC_TRANSB, &op_a,
                                                 sizeof op_a);
    }
    if (status == CUBLAS_STATUS_SUCCESS) {
        status = make_layout(gemm, &plan->a, type, tb ? key->n : key->k, tb ? key->k : key->n,
                             key->ldb, key->batch, key->stride_b);
    }
    if (status == CUBLAS_STATUS_SUCCESS) {
        status = make_layout(gemm, &plan->b, type, ta ? key->k : key->m, ta ? key->m : key->k,
                             key->lda, key->batch, key->stride_a);
    }
    if (status == CUBLAS_STATUS_SUCCESS) {
        status = make_layout(gemm, &plan->c, narrow_out ? CUDA_R_16BF : CUDA_R_32F, key->m, key->n,
                             key->ldc, key->batch, key->stride_c);
    }
    return status;
}

static cublasStatus_t choose(struct cuda_gemm_state *gemm, const gemm_key *key, gemm_plan *plan) {
    cublasLtMatmulHeuristicResult_t found;
    int n = 0;
    cublasStatus_t status = set_preference(gemm, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
                                           &key->align_b, sizeof key->align_b);
    if (status == CUBLAS_STATUS_SUCCESS) {
        status = set_preference(gemm, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &key->align_a,
                                sizeof key->align_a);
    }
    if (status == CUBLAS_STATUS_SUCCESS) {
        status = set_preference(gemm, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &key->align_c,
                                sizeof key->align_c);
    }
    if (status == CUBLAS_STATUS_SUCCESS) {
        status = set_preference(gemm, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &key->align_c,
                                sizeof key->align_c);
    }
    if (status == CUBLAS_STATUS_SUCCESS) {
        status = gemm->lt.MatmulAlgoGetHeuristic(gemm->context, plan->desc, plan->a, plan->b,
                                                 plan->c, plan->c, gemm->preference, 1, &found, &n);
    }
    if (status == CUBLAS_STATUS_SUCCESS && n == 0) {
        status = CUBLAS_STATUS_NOT_SUPPORTED;
    }
    if (status == CUBLAS_STATUS_SUCCESS) {
        plan->algo = found.algo;
    }
    return status;
}

static cublasStatus_t find_plan(struct cuda_gemm_state *gemm, const gemm_key *key,
                                const gemm_plan **out) {
    for (uint32_t i = 0; i < GEMM_PLANS; i++) {
        if (gemm->plan[i].used && memcmp(&gemm->plan[i].key, key, sizeof *key) == 0) {
            *out = &gemm->plan[i];
            return CUBLAS_STATUS_SUCCESS;
        }
    }
    gemm_plan *plan = &gemm->plan[gemm->next];
    drop_plan(gemm, plan);
    cublasStatus_t status = describe(gemm, key, plan);
    if (status == CUBLAS_STATUS_SUCCESS) {
        status = choose(gemm, key, plan);
    }
    if (status != CUBLAS_STATUS_SUCCESS) {
        drop_plan(gemm, plan);
        return status;
    }
    plan->key = *key;
    plan->used = 1;
    gemm->next = (gemm->next + 1) % GEMM_PLANS;
    *out = plan;
    return CUBLAS_STATUS_SUCCESS;
}

pico_status cuda_gemm_run(cuda_backend *cuda, const cuda_gemm_job *job) {
    struct cuda_gemm_state *gemm = cuda->gemm;
    const gemm_key key = key_of(job);
    const gemm_plan *plan = NULL;
    if (job->m == 0 || job->n == 0) {
        return PICO_OK;
    }
    cublasStatus_t status = find_plan(gemm, &key, &plan);
    if (status == CUBLAS_STATUS_SUCCESS) {
        status = gemm->lt.Matmul(gemm->context, plan->desc, &job->alpha, job->b, plan->a, job->a,
                                 plan->b, &job->beta, job->add == NULL ? job->c : job->add, plan->c,
                                 job->c, plan->c, &plan->algo, gemm->workspace, GEMM_WORKSPACE,
                                 cuda->stream);
    }
    if (status != CUBLAS_STATUS_SUCCESS) {
        char call[sizeof cuda->failed];
        (void)snprintf(call, sizeof call, "cublasLtMatmul, %.30s",
                       gemm->lt.GetStatusString(status));
        return cuda_done(cuda, cudaErrorUnknown, call);
    }
    return cuda_done(cuda, cudaSuccess, "cublasLtMatmul");
}
