#pragma once
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/// Maps fields of one JSON object to columns, on simdjson's on-demand parser.
///
/// Treatment of values, the same for every column: `null` is absent. A text column takes a string, a number (its digits
/// as they stand, so that integers beyond 2^53 keep them) or a boolean. A number column takes a number (rounded to the
/// nearest double), a boolean (1 or 0) or a string that holds a number; the strings "NaN" and "" are missing values. A
/// repeated key that a column reads, at any depth, refuses the event. Fields that no column reads are skipped, whatever
/// they hold, as long as the document's structure stands. A vector column takes an array of exactly `dimension` numbers, each
/// within the range of a float, not all of them zero; one column at most is a vector.
typedef struct tl_json tl_json_t;

typedef enum { TL_JSON_TEXT = 0, TL_JSON_NUMBER = 1, TL_JSON_TIME = 2, TL_JSON_VECTOR = 3 } tl_json_kind_t;

/// Of a time given as a number; of a text only RFC 3339 is read, whose zone is needed unless `assume_utc`.
typedef enum {
    TL_JSON_RFC3339 = 0,
    TL_JSON_SECONDS = 1,
    TL_JSON_MILLISECONDS = 2,
    TL_JSON_MICROSECONDS = 3,
    TL_JSON_NANOSECONDS = 4
} tl_json_unit_t;

typedef struct {
    const char *path;  // field names joined by dots
    tl_json_kind_t kind;
    tl_json_unit_t unit;
    int required;
    uint32_t dimension;  // of a vector
} tl_json_column_t;

typedef struct {
    const char *text;  // valid until the next decode; a vector's floats
    uint32_t length;
    uint32_t present;
    double number;  // NaN where missing
    int64_t time;   // microseconds since 1970
} tl_json_value_t;

typedef enum {
    TL_JSON_OK = 0,
    TL_JSON_EMPTY = 1,
    TL_JSON_MALFORMED = 2,
    TL_JSON_NOT_AN_OBJECT = 3,
    TL_JSON_MISSING = 4,
    TL_JSON_WRONG_TYPE = 5,
    TL_JSON_REPEATED = 6,
    TL_JSON_BAD_TIME = 7,
    TL_JSON_NO_ZONE = 8,
    TL_JSON_TRAILING = 9,
    TL_JSON_INVALID_UTF8 = 10,
    TL_JSON_NUMBER_RANGE = 11,
    TL_JSON_TOO_DEEP = 12,
    TL_JSON_VECTOR_LENGTH = 13,
    TL_JSON_VECTOR_ZERO = 14
} tl_json_status_t;

enum { TL_JSON_PADDING = 64 };

/// Copies the columns. Returns NULL where two columns' paths collide (one is the other's prefix) or memory is short.
tl_json_t *tl_json_create(const tl_json_column_t *columns, int count, int assume_utc);
void tl_json_destroy(tl_json_t *json);

/// Decodes one object of `length` bytes of which `readable` may be read; with `readable - length` under
/// TL_JSON_PADDING the bytes are copied first. Writes one value a column. `column` receives the column of an error, or
/// -1.
tl_json_status_t tl_json_decode(tl_json_t *json, const char *bytes, size_t length, size_t readable,
                                tl_json_value_t *values, int *column);

/// Reads an RFC 3339 date and time, to microseconds since 1970; further digits are cut.
tl_json_status_t tl_rfc3339(const char *text, size_t length, int assume_utc, int64_t *microseconds);

#ifdef __cplusplus
}
#endif
