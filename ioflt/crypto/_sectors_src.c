/* The sector loop: AES-256-XTS over 4096-byte sectors, in place. The cipher is OpenSSL's; only the loop is ours.
 *
 * Tweak of sector n: 8n, 128 bit little endian (SPEC.md). One context per call: it cleanses its key schedule when
 * freed, so none outlives the call. Called without the interpreter's lock.
 */

#include <stdint.h>
#include <string.h>

#include <openssl/evp.h>

#define SECTOR 4096
#define UNITS 8 /* 512-byte units in a sector */

enum { ENCRYPT, DECRYPT, DECRYPT_THIN };

static EVP_CIPHER *aes_256_xts;

__attribute__((constructor)) static void fetch_cipher(void)
{
    aes_256_xts = EVP_CIPHER_fetch(NULL, "AES-256-XTS", NULL);
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
