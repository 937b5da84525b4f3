/* mqtt_server.c over TLS. Needs -lssl. */
#define WITH_TLS
#include "mqtt_server.c"
