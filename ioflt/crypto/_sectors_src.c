/* The sector loops: AES-256-XTS over 4096-byte sectors, in place, and the tags of sectors, truncated
 * HMAC-SHA-256. Cipher and hash are OpenSSL's; only the loops are ours.
 *
 * Tweak of sector n: 8n, 128 bit little endian (SPEC.md). One context per call: it cleanses its key schedule when
 * freed, so none outlives the call. Called without the interpreter's lock.
 */

#include <stdint.h>
#include <string.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>

#define SECTOR 4096
#define UNITS 8 /* 512-byte units in a sector */
#define TAG 16
#define KEY 32
#define BLOCK 64 /* of SHA-256 */
#define PREFIX 24 /* what is MACed before the sector: UUID, number as 64 bits big endian */

enum { ENCRYPT, DECRYPT, DECRYPT_THIN };

static EVP_CIPHER *aes_256_xts;
static EVP_MD *sha256;

__attribute__((constructor)) static void fetch_algorithms(void)
{
    aes_256_xts = EVP_CIPHER_fetch(NULL, "AES-256-XTS", NULL);
    sha256 = EVP_MD_fetch(NULL, "SHA2-256", NULL);
}

static int is_zero(const unsigned char *sector)
{
    /* equal to itself one word further: all words equal the first */
    uint64_t first;
    memcpy(&first, sector, sizeof first);
    return first == 0 && memcmp(sector, sector + sizeof first, SECTOR - sizeof first) == 0;
}

static void set_tweak(unsigned char tweak[16], uint64_t sector)
{
    uint64_t unit = sector * UNITS;
    for (int i = 0; i < 8; i++)
        tweak[i] = (unsigned char)(unit >> (8 * i));
}

/* 1 when all sectors were done, 0 when OpenSSL refused. The caller checked lengths, range and key. */
static int ioflt_sectors(const unsigned char *key, unsigned char *data, size_t count, uint64_t sector, int action)
{
    unsigned char tweak[16] = {0};
    int length;
    EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();
    int ok = context != NULL && aes_256_xts != NULL
        && EVP_CipherInit_ex2(context, aes_256_xts, key, NULL, action == ENCRYPT, NULL) == 1;

    for (size_t i = 0; ok && i < count; i++, data += SECTOR) {
        if (action == DECRYPT_THIN && is_zero(data))
            continue;
        set_tweak(tweak, sector + i);
        ok = EVP_CipherInit_ex2(context, NULL, NULL, tweak, -1, NULL) == 1
            && EVP_CipherUpdate(context, data, &length, data, SECTOR) == 1 && length == SECTOR;
    }
    EVP_CIPHER_CTX_free(context);
    return ok;
}

/* SHA-256 begun with the key, each of its bytes changed by `pad`: RFC 2104. */
static EVP_MD_CTX *keyed(const unsigned char *key, unsigned char pad)
{
    unsigned char block[BLOCK];
    EVP_MD_CTX *context = EVP_MD_CTX_new();

    for (int i = 0; i < BLOCK; i++)
        block[i] = (unsigned char)((i < KEY ? key[i] : 0) ^ pad);
    if (context != NULL
        && (EVP_DigestInit_ex2(context, sha256, NULL) != 1 || EVP_DigestUpdate(context, block, BLOCK) != 1)) {
        EVP_MD_CTX_free(context);
        context = NULL;
    }
    OPENSSL_cleanse(block, sizeof block);
    return context;
}

/* The tag of each of `count` sectors, the first of which has number `first`, into `tags`. A sector of zeros, and
 * each one without `data`, is a hole: only its place is MACed. HMAC from its parts, so that the key is prepared
 * once a call: an EVP_MAC costs 8 µs a call, twice as much as a sector. 1 when all were done, 0 when OpenSSL refused.
 */
static int ioflt_tags(const unsigned char *key, const unsigned char *uuid, const unsigned char *data, size_t count,
                      uint64_t first, unsigned char *tags)
{
    unsigned char prefix[PREFIX], hash[KEY];
    EVP_MD_CTX *inner = sha256 == NULL ? NULL : keyed(key, 0x36);
    EVP_MD_CTX *outer = sha256 == NULL ? NULL : keyed(key, 0x5c);
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    int ok = inner != NULL && outer != NULL && context != NULL;

    memcpy(prefix, uuid, 16);
    for (size_t i = 0; ok && i < count; i++, tags += TAG) {
        const unsigned char *sector = data == NULL ? NULL : data + i * SECTOR;
        for (int byte = 0; byte < 8; byte++)
            prefix[16 + byte] = (unsigned char)((first + i) >> (56 - 8 * byte));
        ok = EVP_MD_CTX_copy_ex(context, inner) == 1 && EVP_DigestUpdate(context, prefix, PREFIX) == 1;
        if (ok && sector != NULL && !is_zero(sector))
            ok = EVP_DigestUpdate(context, sector, SECTOR) == 1;
        ok = ok && EVP_DigestFinal_ex(context, hash, NULL) == 1 && EVP_MD_CTX_copy_ex(context, outer) == 1
            && EVP_DigestUpdate(context, hash, KEY) == 1 && EVP_DigestFinal_ex(context, hash, NULL) == 1;
        memcpy(tags, hash, TAG);
    }
    EVP_MD_CTX_free(inner);
    EVP_MD_CTX_free(outer);
    EVP_MD_CTX_free(context);
    return ok;
}
