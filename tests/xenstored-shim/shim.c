/*
 * Preloaded into the real xenstored or oxenstored, stands in for the hypervisor, so that they run on any Linux machine as any
 * user. All it knows is in the directory $SHIM_DIR:
 *
 *   ring-N    the page over which domain N and the store talk; made at need
 *   dom-N     domain N exists while this does; a datagram socket, told by a word when the store has something for N
 *   evtchn    the store's own datagram socket: a word is an event on that port; 1000 + N is domain N's, 999 "a domain changed"
 *   run/...   where paths below /run, /var/run, /var/log, /var/lib and /etc/xen lead
 *
 * Knows nothing of the store's protocol.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define PAGE 4096
#define PORT_OF_DOMAIN 1000
#define PORT_OF_VIRQ 999

static char handle; /* what the libraries' "open" functions return; never looked into */
static int events = -1;

static const char *shim_dir(void)
{
    const char *dir = getenv("SHIM_DIR");
    return dir ? dir : "/nonexistent";
}

static const char *in_shim_dir(char *buffer, size_t len, const char *format, unsigned domain)
{
    int start = snprintf(buffer, len, "%s/", shim_dir());
    if (start > 0 && (size_t)start < len)
        snprintf(buffer + start, len - start, format, domain);
    return buffer;
}

/* Where a path of the system leads: those that belong to Xen, into the directory. */
static const char *redirect(const char *path, char *buffer, size_t len)
{
    static const char *const prefixes[] = { "/run/xen", "/var/run/xen", "/var/log/xen", "/var/lib/xen", "/etc/xen" };
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++) {
        if (!strncmp(path, prefixes[i], strlen(prefixes[i]))) {
            snprintf(buffer, len, "%s/run%s", shim_dir(), path);
            return buffer;
        }
    }
    return path;
}

static int open_ring(unsigned domain)
{
    char path[PATH_MAX];
    int fd = REAL(open)(in_shim_dir(path, sizeof path, "ring-%u", domain), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd >= 0 && ftruncate(fd, PAGE) < 0) {
        close(fd);
        return -1;
    }
    return fd;
}

static void *map_ring(unsigned domain)
{
    int fd = open_ring(domain);
    if (fd < 0)
        return NULL;
    void *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    return page == MAP_FAILED ? NULL : page;
}

static int domain_exists(unsigned domain)
{
    char path[PATH_MAX];
    return domain == 0 || !REAL(access)(in_shim_dir(path, sizeof path, "dom-%u", domain), F_OK);
}

/* Files. */

int open(const char *path, int flags, ...)
{
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    if (!strcmp(path, "/proc/xen/xsd_kva"))
        return open_ring(0);
    if (!strcmp(path, "/proc/xen/xsd_port")) {
        int fd = memfd_create("xsd_port", MFD_CLOEXEC);
        return fd >= 0 && pwrite(fd, "1", 1, 0) == 1 ? fd : -1;
    }
    char buffer[PATH_MAX];
    return REAL(open)(redirect(path, buffer, sizeof buffer), flags, mode);
}

int open64(const char *path, int flags, ...)
{
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    return open(path, flags, mode);
}

int bind(int fd, const struct sockaddr *address, socklen_t len)
{
    struct sockaddr_un there = { .sun_family = AF_UNIX };
    if (address->sa_family == AF_UNIX && len <= sizeof there) {
        char buffer[PATH_MAX], path[sizeof there.sun_path + 1] = "";
        memcpy(path, ((const struct sockaddr_un *)address)->sun_path, len - offsetof(struct sockaddr_un, sun_path));
        const char *to = redirect(path, buffer, sizeof buffer);
        if (to != path) {
            if (strlen(to) >= sizeof there.sun_path) {
                errno = ENAMETOOLONG;
                return -1;
            }
            strcpy(there.sun_path, to);
            return REAL(bind)(fd, (struct sockaddr *)&there, sizeof there);
        }
    }
    return REAL(bind)(fd, address, len);
}

#define REDIRECTED(result, name, rest, ...)                                              \
    result name(const char *path, ##__VA_ARGS__)                                         \
    {                                                                                    \
        char buffer[PATH_MAX];                                                           \
        return REAL(name) rest;                                                          \
    }
#define THERE redirect(path, buffer, sizeof buffer)
REDIRECTED(int, unlink, (THERE))
REDIRECTED(int, access, (THERE, mode), int mode)
REDIRECTED(int, mkdir, (THERE, mode), mode_t mode)
REDIRECTED(int, chmod, (THERE, mode), mode_t mode)
REDIRECTED(DIR *, opendir, (THERE))

int rename(const char *from, const char *to)
{
    char from_buffer[PATH_MAX], to_buffer[PATH_MAX];
    return REAL(rename)(redirect(from, from_buffer, PATH_MAX), redirect(to, to_buffer, PATH_MAX));
}

/* oxenstored raises its limit of open files, which needs privilege and no test needs. */
int setrlimit(__rlimit_resource_t resource, const struct rlimit *limit)
{
    (void)resource;
    (void)limit;
    return 0;
}

/* Domains. The structures begin with the domain's number; zeroes behind it mean "neither shut down nor dying". */

void *xc_interface_open(void *logger, void *dombuild_logger, unsigned flags)
{
    (void)logger, (void)dombuild_logger, (void)flags;
    return &handle;
}

int xc_interface_close(void *xc)
{
    (void)xc;
    return 0;
}

int xc_domain_getinfo(void *xc, uint32_t first, unsigned max, void *info)
{
    (void)xc;
    if (max == 0 || !domain_exists(first))
        return 0;
    memset(info, 0, 16);
    memcpy(info, &first, sizeof first);
    return 1;
}

int xc_domain_getinfolist(void *xc, uint32_t first, unsigned max, void *info)
{
    (void)xc;
    uint16_t domain = first;
    if (max == 0 || !domain_exists(first))
        return 0;
    memset(info, 0, 8);
    memcpy(info, &domain, sizeof domain);
    return 1;
}

/* Grants: only ever the page over which a domain and the store talk. */

void *xengnttab_open(void *logger, unsigned flags)
{
    (void)logger, (void)flags;
    return &handle;
}

int xengnttab_close(void *gnttab)
{
    (void)gnttab;
    return 0;
}

int xengnttab_set_max_grants(void *gnttab, uint32_t count)
{
    (void)gnttab, (void)count;
    return 0;
}

void *xengnttab_map_grant_ref(void *gnttab, uint32_t domain, uint32_t ref, int protection)
{
    (void)gnttab, (void)ref, (void)protection;
    return map_ring(domain);
}

int xengnttab_unmap(void *gnttab, void *start, uint32_t count)
{
    (void)gnttab;
    return munmap(start, (size_t)PAGE * count);
}

void *xc_map_foreign_range(void *xc, uint32_t domain, int size, int protection, unsigned long frame)
{
    (void)xc, (void)size, (void)protection, (void)frame;
    return map_ring(domain);
}

/* Event channels. */

void *xenevtchn_open(void *logger, unsigned flags)
{
    (void)logger, (void)flags;
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    in_shim_dir(address.sun_path, sizeof address.sun_path, "evtchn", 0);
    REAL(unlink)(address.sun_path);
    events = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    return REAL(bind)(events, (struct sockaddr *)&address, sizeof address) ? NULL : &handle;
}

void *xenevtchn_fdopen(void *logger, int fd, unsigned flags)
{
    (void)logger, (void)flags;
    events = fd;
    return &handle;
}

int xenevtchn_close(void *evtchn)
{
    (void)evtchn;
    return 0;
}

int xenevtchn_fd(void *evtchn)
{
    (void)evtchn;
    return events;
}

int xenevtchn_bind_interdomain(void *evtchn, uint32_t domain, uint32_t port)
{
    (void)evtchn, (void)port;
    return PORT_OF_DOMAIN + domain;
}

int xenevtchn_bind_virq(void *evtchn, unsigned virq)
{
    (void)evtchn, (void)virq;
    return PORT_OF_VIRQ;
}

int xenevtchn_unbind(void *evtchn, uint32_t port)
{
    (void)evtchn, (void)port;
    return 0;
}

int xenevtchn_unmask(void *evtchn, uint32_t port)
{
    (void)evtchn, (void)port;
    return 0;
}

int xenevtchn_pending(void *evtchn)
{
    (void)evtchn;
    uint32_t port;
    return recv(events, &port, sizeof port, 0) == sizeof port ? (int)port : -1;
}

int xenevtchn_notify(void *evtchn, uint32_t port)
{
    (void)evtchn;
    struct sockaddr_un there = { .sun_family = AF_UNIX };
    in_shim_dir(there.sun_path, sizeof there.sun_path, "dom-%u", port - PORT_OF_DOMAIN);
    sendto(events, &port, sizeof port, MSG_DONTWAIT, (struct sockaddr *)&there, sizeof there);
    return 0;
}
