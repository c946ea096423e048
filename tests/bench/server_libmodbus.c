/* server_libmodbus - a Modbus server of libmodbus: TCP in the way its documentation shows for many clients (select,
 * modbus_receive, modbus_reply), or RTU on one serial line as unit 1 (modbus_receive, modbus_reply).
 *
 *   cc -O2 -Wall -Wextra -o server_libmodbus server_libmodbus.c -lmodbus
 */
#include <errno.h>
#include <getopt.h>
#include <modbus/modbus.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <unistd.h>

enum { TABLE = 1000, UNIT = 1, BAUDRATE = 115200 };

static int fail(void) {
    fprintf(stderr, "server_libmodbus: %s\n", modbus_strerror(errno));
    return 1;
}
static int serve_line(modbus_t *modbus, modbus_mapping_t *mapping) {
    uint8_t query[MODBUS_RTU_MAX_ADU_LENGTH];
    if (modbus_set_slave(modbus, UNIT) || modbus_connect(modbus)) return fail();
    puts("ready");
    fflush(stdout);
    for (;;) {
        int n = modbus_receive(modbus, query); /* 0: another unit's */
        if (n > 0) n = modbus_reply(modbus, query, n, mapping);
        if (n < 0 && errno != EMBBADCRC) return fail();
    }
}

int main(int argc, char **argv) {
    static const struct option options[] = {{"port", required_argument, NULL, 'p'}, {"serial", required_argument, NULL, 's'}, {0}};
    const char *serial = NULL;
    int port = 0, option;
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1 && option != '?')
        if (option == 's') serial = optarg;
        else port = atoi(optarg);
    if (option != -1 || (!serial && (port < 1 || port > 65535))) {
        fprintf(stderr, "usage: server_libmodbus --port N | --serial PATH\n");
        return 2;
    }
    modbus_t *modbus = serial ? modbus_new_rtu(serial, BAUDRATE, 'N', 8, 1) : modbus_new_tcp("127.0.0.1", port);
    modbus_mapping_t *mapping = modbus_mapping_new(TABLE, TABLE, TABLE, TABLE);
    if (!modbus || !mapping) return fail();
    for (unsigned a = 0; a < TABLE; a++) { /* the pattern that mbload --expect pattern knows */
        mapping->tab_registers[a] = mapping->tab_input_registers[a] = (uint16_t)(a * 40503u + 0x1234);
        mapping->tab_bits[a] = mapping->tab_input_bits[a] = __builtin_popcount(a) & 1;
    }
    if (serial) return serve_line(modbus, mapping);
    int listener = modbus_tcp_listen(modbus, SOMAXCONN);
    if (listener < 0) return fail();
    fd_set clients;
    int highest = listener;
    FD_ZERO(&clients);
    FD_SET(listener, &clients);
    for (;;) {
        fd_set ready = clients;
        if (select(highest + 1, &ready, NULL, NULL, NULL) < 0) {
            perror("server_libmodbus");
            return 1;
        }
        for (int fd = 0, last = highest; fd <= last; fd++) {
            if (!FD_ISSET(fd, &ready)) continue;
            if (fd == listener) {
                int client = modbus_tcp_accept(modbus, &listener);
                if (client < 0) continue;
                if (client >= FD_SETSIZE) { /* what select can watch */
                    close(client);
                    continue;
                }
                FD_SET(client, &clients);
                if (client > highest) highest = client;
                continue;
            }
            uint8_t query[MODBUS_TCP_MAX_ADU_LENGTH];
            modbus_set_socket(modbus, fd);
            int n = modbus_receive(modbus, query);
            if (n > 0) n = modbus_reply(modbus, query, n, mapping);
            if (n < 0) {
                close(fd);
                FD_CLR(fd, &clients);
            }
        }
    }
}
