/* Pairs of BF16 as the tiles of weights, keys and values want them; ties are rounded away from zero. The
 * including file defines INLINE. */
#include <immintrin.h>

/* Upper halves of two vectors, rounded, in pairs; the vectors become what that left. */
INLINE __m512i cut_pair(__m512 *even, __m512 *odd) {
    const __m512i half = _mm512_set1_epi32(0x8000), upper = _mm512_set1_epi32((int)0xffff0000u);
    const __m512i e = _mm512_add_epi32(_mm512_castps_si512(*even), half);
    const __m512i o = _mm512_add_epi32(_mm512_castps_si512(*odd), half);
    *even = _mm512_sub_ps(*even, _mm512_castsi512_ps(_mm512_and_si512(e, upper)));
    *odd = _mm512_sub_ps(*odd, _mm512_castsi512_ps(_mm512_and_si512(o, upper)));
    return _mm512_mask_blend_epi16(0xaaaaaaaau, _mm512_srli_epi32(e, 16), o);
}
