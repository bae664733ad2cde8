/*
 * volary-pulse: writes a line of measurements at a steady pace, so that others can see that this
 * machine and this service are alive. No network, no dependencies beyond the C library.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#ifndef VERSION
#define VERSION "unknown"
#endif

#define DEFAULT_CONFIG "/etc/volary-pulse.conf"
#define DEFAULT_STATUS "/run/volary-pulse/status"

/* Exit statuses that systemd and scripts know: see sysexits.h. */
enum { FRESH = 0, STALE = 1, USAGE = 64, BAD_CONFIG = 78 };

struct config {
	long interval; /* seconds between two measurements */
	char message[128];
};

struct measurement {
	long boot;   /* seconds since the machine started, also while it slept */
	long uptime; /* seconds since this service started */
	unsigned long beats;
	long rss; /* KiB of memory that are really in use */
};

static void complain(const char *format, ...)
{
	va_list arguments;

	fputs("volary-pulse: ", stderr);
	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fputc('\n', stderr);
}

/* Seconds that no change of the wall clock disturbs. */
static long boot_seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_BOOTTIME, &now);
	return now.tv_sec;
}

static char *trim(char *text)
{
	char *end;

	while (isspace((unsigned char)*text))
		text++;
	end = text + strlen(text);
	while (end > text && isspace((unsigned char)end[-1]))
		end--;
	*end = '\0';
	return text;
}

static int set_option(struct config *config, const char *key, const char *value)
{
	char *end;

	if (strcmp(key, "interval") == 0) {
		errno = 0;
		config->interval = strtol(value, &end, 10);
		if (errno != 0 || end == value || *end != '\0')
			return -1;
		return config->interval >= 1 && config->interval <= 86400 ? 0 : -1;
	}
	if (strcmp(key, "message") == 0) {
		/* A quote would end the message in the status line. */
		if (strlen(value) >= sizeof(config->message) || strchr(value, '"') != NULL)
			return -1;
		strcpy(config->message, value);
		return 0;
	}
	return -1;
}

/* Reads "key = value" lines; "#" begins a comment. Says what is wrong and returns -1. */
static int read_config(const char *path, struct config *config)
{
	char line[512];
	int number = 0;
	FILE *file = fopen(path, "re");

	if (file == NULL) {
		complain("cannot read %s: %s", path, strerror(errno));
		return -1;
	}
	while (fgets(line, sizeof(line), file) != NULL) {
		char *key = trim(line);
		char *value = strchr(key, '=');

		number++;
		if (*key == '\0' || *key == '#')
			continue;
		if (value != NULL)
			*value++ = '\0';
		if (value == NULL || set_option(config, trim(key), trim(value)) != 0) {
			complain("%s:%d: not a valid setting: %s", path, number, key);
			fclose(file);
			return -1;
		}
	}
	fclose(file);
	return 0;
}

/* The memory of this process that is really in use. */
static long own_rss(void)
{
	long size = 0, resident = 0;
	FILE *file = fopen("/proc/self/statm", "re");

	if (file == NULL)
		return 0;
	if (fscanf(file, "%ld %ld", &size, &resident) != 2)
		resident = 0;
	fclose(file);
	return resident;
}

/* Replaces the status file, so that a reader sees the old line or the new one, never half of it. */
static int write_status(const char *path, const struct config *config, const struct measurement *now)
{
	char temporary[4096];
	FILE *file;
	int failed;

	if ((size_t)snprintf(temporary, sizeof(temporary), "%s.new", path) >= sizeof(temporary)) {
		complain("the path is too long: %s", path);
		return -1;
	}
	file = fopen(temporary, "we");
	if (file == NULL) {
		complain("cannot write %s: %s", temporary, strerror(errno));
		return -1;
	}
	fprintf(file, "version=%s boot_s=%ld uptime_s=%ld interval_s=%ld beats=%lu rss_kib=%ld message=\"%s\"\n",
		VERSION, now->boot, now->uptime, config->interval, now->beats, now->rss, config->message);
	failed = ferror(file);
	if (fclose(file) != 0 || failed || rename(temporary, path) != 0) {
		complain("cannot replace %s: %s", path, strerror(errno));
		unlink(temporary);
		return -1;
	}
	return 0;
}

/* Tells systemd, if it started us, that we work. */
static void notify(const char *state)
{
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	socklen_t length;
	int socket_fd;

	if (path == NULL || strlen(path) >= sizeof(address.sun_path))
		return;
	strcpy(address.sun_path, path);
	length = offsetof(struct sockaddr_un, sun_path) + strlen(path);
	if (address.sun_path[0] == '@')
		address.sun_path[0] = '\0';
	socket_fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (socket_fd < 0)
		return;
	if (sendto(socket_fd, state, strlen(state), 0, (struct sockaddr *)&address, length) < 0)
		complain("cannot notify systemd: %s", strerror(errno));
	close(socket_fd);
}

static int serve(const char *config_path, const char *status_path, int once)
{
	struct config config = { .interval = 5 };
	struct measurement now = { 0 };
	long started = boot_seconds();
	sigset_t ending;

	if (read_config(config_path, &config) != 0)
		return BAD_CONFIG;
	sigemptyset(&ending);
	sigaddset(&ending, SIGTERM);
	sigaddset(&ending, SIGINT);
	sigprocmask(SIG_BLOCK, &ending, NULL);

	for (;;) {
		struct timespec pause = { .tv_sec = config.interval };

		now.boot = boot_seconds();
		now.uptime = now.boot - started;
		now.beats++;
		now.rss = own_rss();
		if (write_status(status_path, &config, &now) != 0)
			return EXIT_FAILURE;
		if (now.beats == 1)
			notify("READY=1");
		if (once)
			return EXIT_SUCCESS;
		/* A timeout is the next beat; a signal is the end. */
		if (sigtimedwait(&ending, NULL, &pause) > 0) {
			notify("STOPPING=1");
			unlink(status_path);
			return EXIT_SUCCESS;
		}
	}
}

/* Says whether the newest measurement is as young as it must be. */
static int check(const char *status_path)
{
	char line[1024] = "";
	long boot, interval, age;
	const char *fields;
	FILE *file = fopen(status_path, "re");

	if (file == NULL) {
		complain("no measurement: cannot read %s: %s", status_path, strerror(errno));
		return STALE;
	}
	if (fgets(line, sizeof(line), file) == NULL)
		line[0] = '\0';
	fclose(file);
	fields = strstr(line, " boot_s=");
	if (fields == NULL || sscanf(fields, " boot_s=%ld uptime_s=%*d interval_s=%ld", &boot, &interval) != 2) {
		complain("%s is not a measurement", status_path);
		return STALE;
	}
	age = boot_seconds() - boot;
	if (age < 0 || age > 2 * interval + 2) {
		complain("the last measurement is %ld s old, and one is due every %ld s", age, interval);
		return STALE;
	}
	printf("fresh: %s", line);
	return FRESH;
}

static int usage(FILE *stream)
{
	fputs("usage: volary-pulse [--config FILE] [--status FILE] [--once | --check | --version | --help]\n", stream);
	return stream == stdout ? EXIT_SUCCESS : USAGE;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "config", required_argument, NULL, 'c' }, { "status", required_argument, NULL, 's' },
		{ "once", no_argument, NULL, 'o' },	    { "check", no_argument, NULL, 'k' },
		{ "version", no_argument, NULL, 'v' },	    { "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	const char *config = DEFAULT_CONFIG, *status = DEFAULT_STATUS;
	int once = 0, checking = 0, option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case 'c':
			config = optarg;
			break;
		case 's':
			status = optarg;
			break;
		case 'o':
			once = 1;
			break;
		case 'k':
			checking = 1;
			break;
		case 'v':
			puts("volary-pulse " VERSION);
			return EXIT_SUCCESS;
		case 'h':
			return usage(stdout);
		default:
			return usage(stderr);
		}
	}
	if (optind != argc)
		return usage(stderr);
	return checking ? check(status) : serve(config, status, once);
}
