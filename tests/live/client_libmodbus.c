/* A libmodbus master that obeys lines.
 *
 *     client_libmodbus tcp HOST PORT UNIT
 *     client_libmodbus rtu DEVICE BAUD PARITY UNIT
 *
 * Each line of standard input is an operation and its numbers, e.g. "write_registers 10 1 2 3"; each answer is one line:
 * "ok" and the numbers read, "exception" and the code, or "error" and a text. */

#include <errno.h>
#include <modbus.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_NUMBERS = 2048 };

static modbus_t *bus;
static int numbers[MAX_NUMBERS], count;
static uint8_t bits[MAX_NUMBERS];
static uint16_t registers[MAX_NUMBERS];

static void answer_failure(void)
{
    if (errno > MODBUS_ENOBASE && errno < MODBUS_ENOBASE + MODBUS_EXCEPTION_MAX)
        printf("exception %d\n", errno - MODBUS_ENOBASE);
    else
        printf("error %s\n", modbus_strerror(errno));
}

static void answer_bits(int n)
{
    if (n < 0)
        return answer_failure();
    printf("ok");
    for (int i = 0; i < n; i++)
        printf(" %d", bits[i]);
    printf("\n");
}

static void answer_registers(int n)
{
    if (n < 0)
        return answer_failure();
    printf("ok");
    for (int i = 0; i < n; i++)
        printf(" %d", registers[i]);
    printf("\n");
}

static void answer_written(int n)
{
    if (n < 0)
        return answer_failure();
    printf("ok\n");
}

/* libmodbus has no call for function 07, but its raw requests know the length of the answer. */
static void read_exception_status(void)
{
    uint8_t request[] = {(uint8_t) modbus_get_slave(bus), MODBUS_FC_READ_EXCEPTION_STATUS};
    uint8_t answer[MODBUS_TCP_MAX_ADU_LENGTH];

    if (modbus_send_raw_request(bus, request, sizeof request) < 0 || modbus_receive_confirmation(bus, answer) < 0)
        return answer_failure();
    printf("ok %d\n", answer[modbus_get_header_length(bus) + 1]);
}

static void obey(const char *operation)
{
    const int address = numbers[0];

    if (!strcmp(operation, "read_coils"))
        answer_bits(modbus_read_bits(bus, address, numbers[1], bits));
    else if (!strcmp(operation, "read_discrete_inputs"))
        answer_bits(modbus_read_input_bits(bus, address, numbers[1], bits));
    else if (!strcmp(operation, "read_holding_registers"))
        answer_registers(modbus_read_registers(bus, address, numbers[1], registers));
    else if (!strcmp(operation, "read_input_registers"))
        answer_registers(modbus_read_input_registers(bus, address, numbers[1], registers));
    else if (!strcmp(operation, "write_coil"))
        answer_written(modbus_write_bit(bus, address, numbers[1]));
    else if (!strcmp(operation, "write_register"))
        answer_written(modbus_write_register(bus, address, (uint16_t) numbers[1]));
    else if (!strcmp(operation, "write_coils")) {
        for (int i = 1; i < count; i++)
            bits[i - 1] = (uint8_t) numbers[i];
        answer_written(modbus_write_bits(bus, address, count - 1, bits));
    } else if (!strcmp(operation, "write_registers")) {
        for (int i = 1; i < count; i++)
            registers[i - 1] = (uint16_t) numbers[i];
        answer_written(modbus_write_registers(bus, address, count - 1, registers));
    } else if (!strcmp(operation, "mask_write_register"))
        answer_written(modbus_mask_write_register(bus, address, (uint16_t) numbers[1], (uint16_t) numbers[2]));
    else if (!strcmp(operation, "readwrite_registers")) {
        uint16_t written[MODBUS_MAX_WR_WRITE_REGISTERS];
        for (int i = 3; i < count && i < 3 + MODBUS_MAX_WR_WRITE_REGISTERS; i++)
            written[i - 3] = (uint16_t) numbers[i];
        answer_registers(modbus_write_and_read_registers(bus, numbers[2], count - 3, written, address, numbers[1], registers));
    } else if (!strcmp(operation, "report_id"))
        answer_bits(modbus_report_slave_id(bus, MAX_NUMBERS, bits));
    else if (!strcmp(operation, "read_exception_status"))
        read_exception_status();
    else
        printf("error %s is not an operation\n", operation);
}

int main(int argc, char **argv)
{
    char line[16 * MAX_NUMBERS];

    if (argc == 5 && !strcmp(argv[1], "tcp"))
        bus = modbus_new_tcp(argv[2], atoi(argv[3]));
    else if (argc == 6 && !strcmp(argv[1], "rtu"))
        bus = modbus_new_rtu(argv[2], atoi(argv[3]), argv[4][0], 8, 1);
    if (!bus) {
        fprintf(stderr, "usage: %s tcp HOST PORT UNIT | rtu DEVICE BAUD PARITY UNIT\n", argv[0]);
        return 2;
    }
    modbus_set_slave(bus, atoi(argv[argc - 1]));
    modbus_set_response_timeout(bus, 5, 0);
    if (modbus_connect(bus) < 0) {
        fprintf(stderr, "%s\n", modbus_strerror(errno));
        return 1;
    }
    while (fgets(line, sizeof line, stdin)) {
        char *word = strtok(line, " \n"), *operation = word;
        for (count = 0; count < MAX_NUMBERS && (word = strtok(NULL, " \n")); count++)
            numbers[count] = atoi(word);
        if (operation)
            obey(operation);
        fflush(stdout);
    }
    modbus_close(bus);
    modbus_free(bus);
    return 0;
}
