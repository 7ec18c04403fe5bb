/* Backends: what they say of themselves, buffers, weights, reservations. */
#include "conform/device.h"

static void caps_are_plausible(conform *c) {
    dev d;
    dev_open(c, &d);
    pico_backend_caps caps = {.struct_size = sizeof caps};
    dev_ok(&d, d.ops->caps(d.self, &caps), "caps");
    CHECK(c, caps.struct_size > 0 && caps.struct_size <= sizeof caps, "caps: struct_size is %u",
          caps.struct_size);
    CHECK(c, memchr(caps.device, '\0', sizeof caps.device) != NULL && caps.device[0] != '\0',
          "caps: the device has no name");
    CHECK(c, (caps.flags & ~3u) == 0, "caps: unknown flags %x", caps.flags);
    CHECK(c, caps.memory_bytes == 0 || caps.free_bytes <= caps.memory_bytes,
          "caps: more memory is free than there is");
    CHECK(c, !(caps.flags & PICO_CAP_HOST_MEMORY) || d.ops->buffer_host != NULL,
          "caps: host memory is claimed but there is no buffer_host");
}

/* Whatever is written comes back, at any offset and of any size. */
static void buffers_keep_bytes(conform *c) {
    static const uint64_t sizes[] = {0, 1, 3, 63, 64, 65, 4095, 4096, 70001};
    dev d;
    dev_open(c, &d);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        uint64_t n = sizes[i];
        pico_buffer *a = NULL, *b = NULL;
        uint8_t *in = conform_alloc(c, n, 1), *out = conform_alloc(c, n, 1);
        for (uint64_t j = 0; j < n; j++) {
            in[j] = (uint8_t)rig_random(&c->random);
        }
        CHECK_OK(c, d.ops->buffer_alloc(d.self, n, &a, error), "buffer_alloc");
        CHECK_OK(c, d.ops->buffer_alloc(d.self, n, &b, error), "buffer_alloc");
        CHECK(c, a != NULL && b != NULL && a != b, "buffer_alloc gives no new buffer of %llu bytes",
              (unsigned long long)n);
        uint8_t *reuse = conform_alloc(c, n, 1);
        memcpy(reuse, in, n);
        dev_ok(&d, d.ops->buffer_write(d.self, a, 0, reuse, n), "buffer_write");
        memset(reuse, 0xee, n); /* src may be reused when the call returns */
        if (n >= 3) {
            const uint8_t middle[2] = {0xab, 0xcd};
            dev_ok(&d, d.ops->buffer_write(d.self, a, n / 2, middle, 2), "buffer_write");
            memcpy(in + n / 2, middle, 2);
        }
        dev_ok(&d, d.ops->buffer_copy(d.self, b, 0, a, 0, n), "buffer_copy");
        dev_ok(&d, d.ops->buffer_write(d.self, a, 0, out, n), "buffer_write"); /* in order */
        CHECK_OK(c, d.ops->buffer_read(d.self, b, 0, out, n, error), "buffer_read");
        CHECK(c, memcmp(in, out, n) == 0, "a buffer of %llu bytes came back changed",
              (unsigned long long)n);
        if (n >= 64) {
            CHECK_OK(c, d.ops->buffer_read(d.self, b, n - 5, out, 5, error), "buffer_read");
            CHECK(c, memcmp(in + n - 5, out, 5) == 0, "reading at an offset gives other bytes");
            dev_ok(&d, d.ops->buffer_copy(d.self, b, 7, a, 11, 20), "buffer_copy");
            CHECK_OK(c, d.ops->buffer_read(d.self, b, 0, out, n, error), "buffer_read");
            memset(in + 7, 0, 20); /* a was overwritten with zeros */
            CHECK(c, memcmp(in, out, n) == 0, "copying at offsets gives other bytes");
        }
        d.ops->buffer_free(d.self, a);
        d.ops->buffer_free(d.self, b);
        free(in), free(out), free(reuse);
    }
    d.ops->buffer_free(d.self, NULL);
    dev_sync(&d);
}

static void host_pointers_are_the_bytes(conform *c) {
    dev d;
    dev_open(c, &d);
    if (d.ops->buffer_host == NULL) {
        conform_skip(c, "no buffer_host");
    }
    for (uint64_t n = 1; n < 5000; n = n * 3 + 1) {
        pico_buffer *buffer = NULL;
        uint8_t *in = conform_alloc(c, n, 1);
        memset(in, (int)(n & 0x7f), n);
        CHECK_OK(c, d.ops->buffer_alloc(d.self, n, &buffer, error), "buffer_alloc");
        dev_ok(&d, d.ops->buffer_write(d.self, buffer, 0, in, n), "buffer_write");
        dev_sync(&d);
        const void *host = d.ops->buffer_host(d.self, buffer);
        CHECK(c, host != NULL || !(d.caps & PICO_CAP_HOST_MEMORY), "buffer_host gives NULL");
        CHECK(c, host == NULL || memcmp(host, in, n) == 0, "buffer_host shows other bytes");
        CHECK(c, (uintptr_t)host % 64 == 0, "buffers must be aligned to 64 bytes");
        d.ops->buffer_free(d.self, buffer);
        free(in);
    }
}

/* Sizes that no machine has are a status and a message. */
static void absurd_sizes_are_refused(conform *c) {
    static const uint64_t sizes[] = {UINT64_MAX, UINT64_MAX - 63, (uint64_t)1 << 62,
                                     (uint64_t)1 << 52};
    dev d;
    dev_open(c, &d);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        pico_buffer *buffer = NULL;
        pico_error err = {0};
        pico_status status = d.ops->buffer_alloc(d.self, sizes[i], &buffer, &err);
        CHECK(c, status != PICO_OK, "a buffer of %llu bytes was made",
              (unsigned long long)sizes[i]);
        CHECK(c, err.message[0] != '\0', "buffer_alloc fails without a message");
        CHECK(c, buffer == NULL, "buffer_alloc fails and gives a buffer");
    }
    const pico_reserve all = {UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX,
                              UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX};
    pico_error err = {0};
    pico_status status = d.ops->reserve(d.self, &all, &err);
    CHECK(c, status == PICO_OK || err.message[0] != '\0', "reserve fails without a message");
    dev_reserve(&d, 256); /* and the instance still works */
    pico_tensor x = dev_tensor(&d, PICO_DTYPE_F32, dev_random(&d, 64, 1), 1, 64, 0);
    pico_norm_args norm = {.kind = PICO_NORM_RMS, .eps = 1e-5f, .scale = 1, .x = x, .y = x};
    dev_ok(&d, d.ops->norm(d.self, &norm), "norm");
    dev_check_guards(&d, "norm");
}

static void supports_is_pure(conform *c) {
    dev d;
    dev_open(c, &d);
    for (uint32_t op = 0; op < 12; op++) {
        for (uint32_t dtype = 0; dtype < 16; dtype++) {
            pico_status status = d.ops->supports(d.self, op, dtype);
            CHECK(c, status == PICO_OK || status == PICO_E_UNSUPPORTED, "supports(%u, %u) gives %d",
                  op, dtype, (int)status);
            CHECK(c, status == d.ops->supports(d.self, op, dtype),
                  "supports(%u, %u) changes its mind", op, dtype);
            CHECK(c, status != PICO_OK || (op >= PICO_OP_PRODUCT && op <= PICO_OP_ACT),
                  "supports says yes to op %u, which does not exist", op);
        }
    }
    for (uint32_t op = PICO_OP_PRODUCT; op <= PICO_OP_KV; op++) {
        CHECK(c, d.ops->supports(d.self, op, PICO_DTYPE_F32) == PICO_OK,
              "every backend supports F32, this one not for op %u", op);
    }
}

/* weight_read gives back what was created, although the source is gone; for every layout. */
static void weights_come_back(conform *c) {
    static const int64_t shapes[][2] = {{1, 1}, {3, 33}, {31, 64}, {64, 96}, {5, 256}};
    char skipped[128] = "";
    dev d;
    dev_open(c, &d);
    dev_reserve(&d, 256);
    for (uint32_t dtype = PICO_DTYPE_F32; dtype <= PICO_DTYPE_NF4; dtype++) {
        if (dtype == PICO_DTYPE_I32) {
            continue;
        }
        if (d.ops->supports(d.self, PICO_OP_PRODUCT, dtype) != PICO_OK) {
            (void)snprintf(skipped + strlen(skipped), sizeof skipped - strlen(skipped), " %s",
                           dev_dtype(dtype));
            continue;
        }
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
            int64_t rows = shapes[i][0], cols = shapes[i][1];
            int blocks = dtype == PICO_DTYPE_Q8_0 || dtype == PICO_DTYPE_Q4_0;
            if (blocks && cols % 32 != 0) {
                continue;
            }
            pico_weight_desc desc = dev_weight_desc(&d, dtype, rows, cols, cols, NULL);
            uint8_t *codes = conform_alloc(c, desc.codes_bytes, 1);
            float *scales = conform_alloc(c, desc.n_scales, 4);
            memcpy(codes, desc.codes, desc.codes_bytes);
            memcpy(scales, desc.n_scales == 0 ? codes : desc.scales, desc.n_scales * 4);
            pico_weight *weight = dev_weight(&d, &desc, PICO_USE_PRODUCT | PICO_USE_LOOKUP);
            memset((void *)(uintptr_t)desc.codes, 0xee, desc.codes_bytes);
            uint8_t *got = conform_alloc(c, desc.codes_bytes, 1);
            float *got_scales = conform_alloc(c, desc.n_scales, 4);
            CHECK_OK(c,
                     d.ops->weight_read(d.self, weight, got, desc.n_scales == 0 ? NULL : got_scales,
                                        error),
                     "weight_read");
            CHECK(c, memcmp(got, codes, desc.codes_bytes) == 0,
                  "%s (%lld, %lld): weight_read gives other codes", dev_dtype(dtype),
                  (long long)rows, (long long)cols);
            CHECK(c, memcmp(got_scales, scales, desc.n_scales * 4) == 0,
                  "%s: weight_read gives other scales", dev_dtype(dtype));
            CHECK_OK(c, d.ops->weight_read(d.self, weight, NULL, NULL, error), "weight_read");
            d.ops->weight_free(d.self, weight);
        }
    }
    d.ops->weight_free(d.self, NULL);
    if (skipped[0] != '\0') {
        conform_skip(c, "the others pass; not supported:%s", skipped);
    }
}

/* Descriptions that contradict themselves are refused, not read beyond their end. */
static void impossible_weights_are_refused(conform *c) {
    dev d;
    dev_open(c, &d);
    dev_reserve(&d, 256);
    pico_weight_desc good = dev_weight_desc(&d, PICO_DTYPE_F32, 4, 8, 0, NULL);
    for (uint32_t i = 0; i < 4; i++) {
        pico_weight_desc bad = good;
        pico_weight *weight = NULL;
        pico_error err = {0};
        const char *const what[] = {"too few bytes", "no codes", "an unknown dtype", "no rows"};
        bad.codes_bytes = i == 0 ? 4 * 8 * 4 - 1 : bad.codes_bytes;
        bad.codes = i == 1 ? NULL : bad.codes;
        bad.dtype = i == 2 ? 99 : bad.dtype;
        bad.rows = i == 3 ? -1 : bad.rows;
        CHECK(c, d.ops->weight_create(d.self, &bad, PICO_USE_PRODUCT, 0, &weight, &err) != PICO_OK,
              "a weight with %s was made", what[i]);
        CHECK(c, err.message[0] != '\0', "weight_create with %s fails without a message", what[i]);
    }
}

static void zero_page_bytes_mean_no(conform *c) {
    dev d;
    dev_open(c, &d);
    for (uint32_t dtype = PICO_DTYPE_F32; dtype <= PICO_DTYPE_BF16; dtype++) {
        pico_kv_desc kv = {dtype, 2, 16};
        uint64_t bytes = d.ops->kv_page_bytes(d.self, &kv);
        int yes = d.ops->supports(d.self, PICO_OP_KV, dtype) == PICO_OK;
        uint64_t least =
            (uint64_t)2 * PICO_PAGE_POSITIONS * 2 * 16 * (dtype == PICO_DTYPE_F32 ? 4 : 2);
        CHECK(c, !yes || bytes >= least, "a page of %s has %llu bytes; its values alone take %llu",
              dev_dtype(dtype), (unsigned long long)bytes, (unsigned long long)least);
    }
    if (d.ops->supports(d.self, PICO_OP_KV, PICO_DTYPE_Q8_0) == PICO_OK) {
        pico_kv_desc whole = {PICO_DTYPE_Q8_0, 2, 64}, broken = {PICO_DTYPE_Q8_0, 2, 48};
        uint64_t least = (uint64_t)2 * PICO_PAGE_POSITIONS * 2 * (64 + 2 * 2);
        uint64_t bytes = d.ops->kv_page_bytes(d.self, &whole);
        CHECK(c, bytes >= least, "a page of q8_0 has %llu bytes; codes and scales take %llu",
              (unsigned long long)bytes, (unsigned long long)least);
        CHECK(c, d.ops->kv_page_bytes(d.self, &broken) == 0,
              "a page of q8_0 for heads of 48 has a size; 48 is no multiple of 32");
    }
}

const conform_test conform_backend_memory[] = {
    {"backend/caps_are_plausible", caps_are_plausible},
    {"backend/supports_is_pure", supports_is_pure},
    {"backend/buffers_keep_bytes", buffers_keep_bytes},
    {"backend/host_pointers_are_the_bytes", host_pointers_are_the_bytes},
    {"backend/absurd_sizes_are_refused", absurd_sizes_are_refused},
    {"backend/weights_come_back", weights_come_back},
    {"backend/impossible_weights_are_refused", impossible_weights_are_refused},
    {"backend/kv_pages_hold_their_values", zero_page_bytes_mean_no},
    {NULL, NULL}};
