/* What is decided without a network: where a webhook may lead, when it is tried again, how it is signed. Pure. */
#include "stoker/webhook.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

/* ---- names and rows */

static const char *const form_names[STK_WEBHOOK_FORMS] = {
    [STK_WEBHOOK_NATIVE] = "native",
    [STK_WEBHOOK_SJS] = "sjs",
};

static const char *const state_names[STK_DELIVERY_STATES] = {
    [STK_DELIVERY_WAITING] = "WAITING",
    [STK_DELIVERY_DUE] = "DUE",
    [STK_DELIVERY_DELIVERED] = "DELIVERED",
    [STK_DELIVERY_GIVEN_UP] = "GIVEN_UP",
};

const char *stk_webhook_form_name(enum stk_webhook_form form)
{
    return form_names[form];
}

const char *stk_delivery_state_name(enum stk_delivery_state state)
{
    return state_names[state];
}

int stk_delivery_state_parse(const char *name, enum stk_delivery_state *ret)
{
    for (size_t i = 0; i < STK_DELIVERY_STATES; i++) {
        if (strcmp(state_names[i], name) == 0) {
            *ret = (enum stk_delivery_state)i;
            return 0;
        }
    }
    return -1;
}

void stk_delivery_row_done(struct stk_delivery_row *row)
{
    stk_text_unref(row->url);
    stk_text_unref(row->origin);
    stk_text_unref(row->secret);
    stk_text_unref(row->error);
    *row = (struct stk_delivery_row){ 0 };
}

void stk_delivery_rows_free(struct stk_delivery_row *rows, size_t n)
{
    for (size_t i = 0; i < n; i++)
        stk_delivery_row_done(&rows[i]);
    free(rows);
}

void stk_webhook_body_done(struct stk_webhook_body *body)
{
    stk_buf_done(&body->head);
    stk_buf_done(&body->tail);
    if (body->fd >= 0)
        close(body->fd);
    *body = (struct stk_webhook_body){ .fd = -1 };
}

/* ---- addresses */

/* Every address as one of IPv6: those of IPv4 are ::ffff:a.b.c.d, also when they are wrapped in another way. */
struct range {
    struct in6_addr base;
    unsigned bits;
};

static struct in6_addr mapped(uint32_t v4 /* host order */)
{
    struct in6_addr a = { .s6_addr = { [10] = 0xff, [11] = 0xff } };

    for (int i = 0; i < 4; i++)
        a.s6_addr[12 + i] = (uint8_t)(v4 >> (24 - 8 * i));
    return a;
}

/* "10.0.0.0/8", "fd00::/8", or a single address. */
static int parse_range(const char *text, struct range *ret)
{
    const char *slash = strchr(text, '/');
    size_t len = slash ? (size_t)(slash - text) : strlen(text);
    char host[INET6_ADDRSTRLEN];
    struct in_addr v4;
    uint64_t bits;
    bool is_v4;

    if (len >= sizeof host)
        return -1;
    memcpy(host, text, len);
    host[len] = '\0';
    is_v4 = inet_pton(AF_INET, host, &v4) == 1;
    if (is_v4)
        ret->base = mapped(ntohl(v4.s_addr));
    else if (inet_pton(AF_INET6, host, &ret->base) != 1)
        return -1;
    bits = is_v4 ? 32 : 128;
    if (slash && stk_parse_u64(slash + 1, 0, bits, &bits, NULL) < 0)
        return -1;
    ret->bits = (unsigned)bits + (is_v4 ? 96 : 0);
    return 0;
}

static bool in_range(const struct in6_addr *a, const struct range *r)
{
    unsigned whole = r->bits / 8, rest = r->bits % 8;
    uint8_t mask = (uint8_t)(0xff00 >> rest);

    return memcmp(a, &r->base, whole) == 0 && (rest == 0 || ((a->s6_addr[whole] ^ r->base.s6_addr[whole]) & mask) == 0);
}

/* What is not reached from everywhere: the registries of special addresses (IANA), as far as they matter here. */
static const struct {
    const char *kind, *range;
} special[] = {
    { "loopback", "127.0.0.0/8" },
    { "loopback", "::1" },
    { "link-local", "169.254.0.0/16" }, /* of them the metadata of clouds */
    { "link-local", "fe80::/10" },
    { "private", "10.0.0.0/8" },
    { "private", "172.16.0.0/12" },
    { "private", "192.168.0.0/16" },
    { "private", "100.64.0.0/10" },
    { "private", "fc00::/7" },
    { "private", "fec0::/10" },
    { "none", "0.0.0.0/8" },
    { "none", "192.0.0.0/24" },
    { "none", "192.0.2.0/24" },
    { "none", "198.18.0.0/15" },
    { "none", "198.51.100.0/24" },
    { "none", "203.0.113.0/24" },
    { "none", "224.0.0.0/3" }, /* multicast, reserved, broadcast */
    { "none", "::" },
    { "none", "ff00::/8" },
    { "none", "100::/64" },
    { "none", "2001:db8::/32" },
    { "none", "64:ff9b:1::/48" },
};

static const char *kind_of(const struct in6_addr *a)
{
    for (size_t i = 0; i < STK_LEN(special); i++) {
        struct range r;

        if (parse_range(special[i].range, &r) == 0 && in_range(a, &r))
            return special[i].kind;
    }
    return "public";
}

/* The address of IPv4 inside one of IPv6 leads to the same place. */
static struct in6_addr unwrapped(const struct in6_addr *a)
{
    static const struct {
        const char *range;
        int at;
    } wraps[] = { { "64:ff9b::/96", 12 }, { "2002::/16", 2 }, { "::/96", 12 } };
    uint32_t v4;

    if (IN6_IS_ADDR_LOOPBACK(a) || IN6_IS_ADDR_UNSPECIFIED(a))
        return *a;
    for (size_t i = 0; i < STK_LEN(wraps); i++) {
        struct range r;

        if (parse_range(wraps[i].range, &r) < 0 || !in_range(a, &r))
            continue;
        memcpy(&v4, a->s6_addr + wraps[i].at, sizeof v4);
        return mapped(ntohl(v4));
    }
    return *a;
}

static bool is_word(const char *entry)
{
    return strcmp(entry, "public") == 0 || strcmp(entry, "private") == 0 || strcmp(entry, "loopback") == 0 ||
           strcmp(entry, "link-local") == 0 || strcmp(entry, "any") == 0;
}

static bool allows(const char *entry, const struct in6_addr *a)
{
    struct range r;

    if (is_word(entry))
        return strcmp(entry, "any") == 0 || strcmp(entry, kind_of(a)) == 0;
    return parse_range(entry, &r) == 0 && in_range(a, &r);
}

bool stk_webhook_allows_address(const struct stk_webhook_rules *rules, const struct sockaddr *address)
{
    const json_t *entry;
    struct in6_addr a;
    size_t i;

    if (address->sa_family == AF_INET)
        a = mapped(ntohl(((const struct sockaddr_in *)(const void *)address)->sin_addr.s_addr));
    else if (address->sa_family == AF_INET6)
        a = unwrapped(&((const struct sockaddr_in6 *)(const void *)address)->sin6_addr);
    else
        return false;
    json_array_foreach(rules->allow, i, entry) {
        if (allows(json_string_value(entry), &a))
            return true;
    }
    return false;
}

bool stk_webhook_allows_name(const struct stk_webhook_rules *rules, const char *host)
{
    size_t len = strlen(host), i;
    const json_t *item;

    json_array_foreach(rules->allow, i, item) {
        const char *entry = json_string_value(item);
        size_t n = strlen(entry);

        if (!is_word(entry) && strcasecmp(entry, host) == 0)
            return true;
        if (entry[0] == '*' && len > n - 1 && strcasecmp(entry + 1, host + len - (n - 1)) == 0)
            return true;
    }
    return false;
}

int stk_webhook_allow_check(const char *entry, struct stk_err *err)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.";
    const char *name = strncmp(entry, "*.", 2) == 0 ? entry + 2 : entry;
    struct range r;

    if (is_word(entry) || parse_range(entry, &r) == 0)
        return 0;
    /* With a digit at its end it is meant for an address, and is none. */
    if (*name && !name[strspn(name, letters)] && name[0] != '.' && !strstr(name, "..") && strlen(name) < 254 &&
        (name[strlen(name) - 1] < '0' || name[strlen(name) - 1] > '9'))
        return 0;
    return stk_fail(err, STK_INVALID,
                    "'%.60s' is none of public, private, loopback, link-local, any, an address, a range such as "
                    "10.0.0.0/8, the name of a host, *.example.org",
                    entry);
}

/* ---- when */

int64_t stk_webhook_pause_ms(int attempts, int64_t retry_ms, int64_t max_ms, double chance)
{
    int64_t pause = retry_ms < max_ms ? retry_ms : max_ms;

    for (int i = 1; i < attempts && pause < max_ms; i++)
        pause = pause > max_ms / 2 ? max_ms : 2 * pause;
    return pause / 2 + (int64_t)((double)(pause - pause / 2) * chance);
}

/* ---- signatures */

#define KEY_PREFIX "whsec_"

/* The key in bytes; -1: what should be base64 is not. key of STK_WEBHOOK_SECRET_MAX + 3 bytes. */
static int key_of(const char *secret, unsigned char *key, size_t *ret_len)
{
    const char *base64 = secret + sizeof KEY_PREFIX - 1;
    size_t len = strlen(secret), text_len, filled;
    int n;

    if (strncmp(secret, KEY_PREFIX, sizeof KEY_PREFIX - 1) != 0) {
        memcpy(key, secret, len);
        *ret_len = len;
        return 0;
    }
    text_len = strcspn(base64, "=");
    filled = strlen(base64) - text_len; /* OpenSSL counts these, and takes them anywhere */
    if (text_len == 0 || filled > 2 || strspn(base64 + text_len, "=") != filled || (text_len + filled) % 4 != 0)
        return -1;
    n = EVP_DecodeBlock(key, (const unsigned char *)base64, (int)(text_len + filled));
    *ret_len = n < 0 ? 0 : (size_t)n - filled;
    return n < 0 ? -1 : 0;
}

int stk_webhook_secret_check(const char *secret, struct stk_err *err)
{
    unsigned char key[STK_WEBHOOK_SECRET_MAX + 3];
    size_t len;

    if (!*secret || strlen(secret) > STK_WEBHOOK_SECRET_MAX)
        return stk_fail(err, STK_INVALID, "the secret must have 1 to %d bytes", STK_WEBHOOK_SECRET_MAX);
    if (key_of(secret, key, &len) < 0)
        return stk_fail(err, STK_INVALID, "behind whsec_ the secret must be base64");
    return 0;
}

static bool sign_file(EVP_MD_CTX *ctx, const struct stk_webhook_body *body)
{
    char piece[16384];
    uint64_t at = 0;

    while (at < body->file_len) {
        uint64_t left = body->file_len - at;
        ssize_t n = pread(body->fd, piece, left < sizeof piece ? (size_t)left : sizeof piece, (off_t)at);

        if (n <= 0 || EVP_DigestSignUpdate(ctx, piece, (size_t)n) != 1)
            return false;
        at += (uint64_t)n;
    }
    return true;
}

int stk_webhook_sign(const char *secret, const char *id, int64_t timestamp_s, const struct stk_webhook_body *body,
                     char ret[STK_SIGNATURE_MAX], struct stk_err *err)
{
    unsigned char key_bytes[STK_WEBHOOK_SECRET_MAX + 3], mac[EVP_MAX_MD_SIZE];
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    size_t key_len, len = sizeof mac;
    EVP_PKEY *key = NULL;
    char prefix[STK_UUID_MAX + 32];
    int n = snprintf(prefix, sizeof prefix, "%s.%lld.", id, (long long)timestamp_s);
    bool ok = strlen(secret) <= STK_WEBHOOK_SECRET_MAX && key_of(secret, key_bytes, &key_len) == 0 &&
              (key = EVP_PKEY_new_raw_private_key(EVP_PKEY_HMAC, NULL, key_bytes, key_len)) && ctx &&
              EVP_DigestSignInit(ctx, NULL, EVP_sha256(), NULL, key) == 1 &&
              EVP_DigestSignUpdate(ctx, prefix, (size_t)n) == 1 &&
              EVP_DigestSignUpdate(ctx, body->head.data, body->head.len) == 1 && sign_file(ctx, body) &&
              (!body->tail.len || EVP_DigestSignUpdate(ctx, body->tail.data, body->tail.len) == 1) &&
              EVP_DigestSignFinal(ctx, mac, &len) == 1 && len == 32;

    if (ok) {
        memcpy(ret, "v1,", 3);
        EVP_EncodeBlock((unsigned char *)ret + 3, mac, (int)len); /* 44 characters and a NUL */
    }
    EVP_PKEY_free(key);
    EVP_MD_CTX_free(ctx);
    return ok ? 0 : stk_fail(err, STK_INTERNAL, "the delivery could not be signed");
}
