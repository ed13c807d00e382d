/* A PKCS#11 module that is another one (REAL), except for what files in the directory $MOODY say:
 *
 *   C_Name       the function returns the number in the file; "hang": never, "crash": it aborts
 *   hangs        is opened for writing when a function hangs: a FIFO whose reader waits for that
 *   tokenflags   what C_GetTokenInfo adds to the token's flags
 *   logins       gets a byte for each C_Login, "o" for C_Logout
 *
 * Layouts are those of PKCS #11 2.40, on a machine where CK_ULONG is unsigned long and nothing is packed.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef unsigned long word;

struct list { unsigned char version[2]; void *function[68]; };
enum { INITIALIZE = 0, GET_TOKEN_INFO = 6, LOGIN = 18, LOGOUT = 19, ENCRYPT = 30, DECRYPT = 34 };

static struct list *real, ours;

static FILE *mood(const char *name, const char *mode)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", getenv("MOODY"), name);
    return fopen(path, mode);
}

static void note(const char *name, const char *what)
{
    FILE *file = mood(name, "a");
    if (file) {
        fputs(what, file);
        fclose(file);
    }
}

/* What a file says that is to be returned, 0 where there is none. */
static word told(const char *name)
{
    char text[32] = "";
    FILE *file = mood(name, "r");
    if (!file)
        return 0;
    if (!fgets(text, sizeof text, file))
        text[0] = 0;
    fclose(file);
    if (!strcmp(text, "hang")) {
        note("hangs", "");
        for (;;)
            pause();
    }
    if (!strcmp(text, "crash"))
        abort();
    return strtoul(text, NULL, 0);
}

static word initialize(void *arguments)
{
    word answer = told("C_Initialize");
    return answer ? answer : ((word (*)(void *))real->function[INITIALIZE])(arguments);
}

static word get_token_info(word slot, unsigned char *info)
{
    word answer = ((word (*)(word, unsigned char *))real->function[GET_TOKEN_INFO])(slot, info);
    if (!answer)
        *(word *)(info + 32 + 32 + 16 + 16) |= told("tokenflags");
    return answer;
}

static word login(word session, word user, unsigned char *pin, word length)
{
    note("logins", "i");
    word answer = told("C_Login");
    if (answer)
        return answer;
    return ((word (*)(word, word, unsigned char *, word))real->function[LOGIN])(session, user, pin, length);
}

static word logout(word session)
{
    note("logins", "o");
    return ((word (*)(word))real->function[LOGOUT])(session);
}

static word forward(int which, const char *name, word session, void *in, word size, void *out, word *room)
{
    word answer = told(name);
    if (answer)
        return answer;
    return ((word (*)(word, void *, word, void *, word *))real->function[which])(session, in, size, out, room);
}

static word encrypt(word session, void *in, word size, void *out, word *room)
{
    return forward(ENCRYPT, "C_Encrypt", session, in, size, out, room);
}

static word decrypt(word session, void *in, word size, void *out, word *room)
{
    return forward(DECRYPT, "C_Decrypt", session, in, size, out, room);
}

word C_GetFunctionList(struct list **list)
{
    void *library = dlopen(REAL, RTLD_NOW | RTLD_LOCAL);
    word (*get)(struct list **) = library ? (word (*)(struct list **))dlsym(library, "C_GetFunctionList") : NULL;
    if (!get || get(&real))
        return 5; /* CKR_GENERAL_ERROR */
    ours = *real;
    ours.function[INITIALIZE] = initialize;
    ours.function[GET_TOKEN_INFO] = get_token_info;
    ours.function[LOGIN] = login;
    ours.function[LOGOUT] = logout;
    ours.function[ENCRYPT] = encrypt;
    ours.function[DECRYPT] = decrypt;
    *list = &ours;
    return 0;
}
