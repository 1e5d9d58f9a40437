#include "CJSON.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <new>
#include <simdjson.h>
#include <string>
#include <vector>

using namespace simdjson;

namespace {

struct Node {
    std::string name;
    int column = -1;  // -1: an object on the way to columns
    std::vector<Node> children;
};

struct Failure {
    tl_json_status_t status;
    int column;
};

int64_t days_from_civil(int64_t y, unsigned m, unsigned d) {
    // Howard Hinnant's algorithm for the proleptic Gregorian calendar.
    y -= m <= 2;
    const int64_t era = (y >= 0 ? y : y - 399) / 400;
    const unsigned yoe = static_cast<unsigned>(y - era * 400);
    const unsigned doy = (153 * (m + (m > 2 ? -3 : 9)) + 2) / 5 + d - 1;
    const unsigned doe = yoe * 365 + yoe / 4 - yoe / 100 + doy;
    return era * 146097 + static_cast<int64_t>(doe) - 719468;
}

bool digits(const char *p, int n, unsigned *out) {
    unsigned v = 0;
    for (int i = 0; i < n; i++) {
        unsigned c = static_cast<unsigned char>(p[i]) - '0';
        if (c > 9) return false;
        v = v * 10 + c;
    }
    *out = v;
    return true;
}

// Later than 1970-01-02, so that no tile has index 0, and before 2200: anything else is a mistaken unit.
bool plausible(int64_t t) { return t >= 86400000000ll * 2 && t < 7258118400000000ll; }

bool parse_integer(const char *p, size_t n, int64_t *out) {
    if (n == 0 || n > 19) return false;
    uint64_t v = 0;
    for (size_t i = 0; i < n; i++) {
        unsigned c = static_cast<unsigned char>(p[i]) - '0';
        if (c > 9) return false;
        v = v * 10 + c;
    }
    if (v > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return false;
    *out = static_cast<int64_t>(v);
    return true;
}

bool scale(int64_t v, tl_json_unit_t unit, int64_t *out) {
    switch (unit) {
        case TL_JSON_SECONDS: return !__builtin_mul_overflow(v, 1000000ll, out);
        case TL_JSON_MILLISECONDS: return !__builtin_mul_overflow(v, 1000ll, out);
        case TL_JSON_MICROSECONDS: *out = v; return true;
        case TL_JSON_NANOSECONDS: *out = v / 1000; return true;
        default: return false;
    }
}

bool scale(double v, tl_json_unit_t unit, int64_t *out) {
    double factor = unit == TL_JSON_SECONDS ? 1e6 : unit == TL_JSON_MILLISECONDS ? 1e3
                                                 : unit == TL_JSON_MICROSECONDS  ? 1
                                                                                 : 1e-3;
    if (unit == TL_JSON_RFC3339) return false;
    double t = std::floor(v * factor + 0.5);
    if (!(t >= 0 && t < 9e18)) return false;
    *out = static_cast<int64_t>(t);
    return true;
}

std::string_view trimmed(std::string_view token) {
    while (!token.empty() && (token.back() == ' ' || token.back() == '\n' || token.back() == '\r' || token.back() == '\t'))
        token.remove_suffix(1);
    return token;
}

tl_json_status_t status_of(error_code error) {
    switch (error) {
        case EMPTY: return TL_JSON_EMPTY;
        case UTF8_ERROR: return TL_JSON_INVALID_UTF8;
        case DEPTH_ERROR: return TL_JSON_TOO_DEEP;
        default: return TL_JSON_MALFORMED;
    }
}

}  // namespace

struct tl_json {
    ondemand::parser parser;
    Node root;
    std::vector<tl_json_column_t> columns;
    std::vector<char> padded;
    std::vector<float> vector;
    bool assume_utc = false;

    bool insert(const char *path, int column) {
        Node *node = &root;
        for (const char *p = path;;) {
            const char *dot = std::strchr(p, '.');
            std::string name = dot ? std::string(p, dot) : std::string(p);
            if (name.empty()) return false;
            Node *next = nullptr;
            for (Node &child : node->children)
                if (child.name == name) next = &child;
            if (!next) {
                node->children.push_back(Node{name, -1, {}});
                next = &node->children.back();
            } else if (!dot || next->column >= 0) {
                return false;
            }
            node = next;
            if (!dot) break;
            p = dot + 1;
        }
        node->column = column;
        return true;
    }

    Failure number(ondemand::value &value, ondemand::json_type type, int column, tl_json_value_t *out) {
        if (type == ondemand::json_type::number) {
            double v;
            if (value.get_double().get(v)) return {TL_JSON_NUMBER_RANGE, column};
            out->number = v;
        } else if (type == ondemand::json_type::boolean) {
            bool v;
            if (value.get_bool().get(v)) return {TL_JSON_MALFORMED, column};
            out->number = v ? 1 : 0;
        } else if (type == ondemand::json_type::string) {
            std::string_view text;
            double v;
            if (!value.get_double_in_string().get(v)) {
                out->number = v;
            } else {
                if (value.get_string().get(text)) return {TL_JSON_MALFORMED, column};
                if (!text.empty() && text != "NaN" && text != "nan") return {TL_JSON_WRONG_TYPE, column};
                return {TL_JSON_OK, -1};
            }
        } else {
            return {TL_JSON_WRONG_TYPE, column};
        }
        out->present = 1;
        return {TL_JSON_OK, -1};
    }

    Failure text(ondemand::value &value, ondemand::json_type type, int column, tl_json_value_t *out) {
        std::string_view text;
        if (type == ondemand::json_type::string) {
            if (value.get_string().get(text)) return {TL_JSON_MALFORMED, column};
        } else if (type == ondemand::json_type::number || type == ondemand::json_type::boolean) {
            text = trimmed(value.raw_json_token());
            if (type == ondemand::json_type::number) {
                // Only the digits are kept, but they must be a number.
                ondemand::number checked;
                error_code error = value.get_number().get(checked);
                if (error && error != NUMBER_ERROR) return {TL_JSON_MALFORMED, column};
                for (char c : text)
                    if (!((c >= '0' && c <= '9') || c == '-' || c == '+' || c == '.' || c == 'e' || c == 'E'))
                        return {TL_JSON_MALFORMED, column};
            } else {
                bool v;
                if (value.get_bool().get(v)) return {TL_JSON_MALFORMED, column};
            }
        } else {
            return {TL_JSON_WRONG_TYPE, column};
        }
        out->text = text.data();
        out->length = static_cast<uint32_t>(text.size());
        out->present = 1;
        return {TL_JSON_OK, -1};
    }

    Failure time(ondemand::value &value, ondemand::json_type type, int column, tl_json_value_t *out) {
        const tl_json_unit_t unit = columns[column].unit;
        int64_t integer;
        if (type == ondemand::json_type::number) {
            if (unit == TL_JSON_RFC3339) return {TL_JSON_WRONG_TYPE, column};
            std::string_view token = trimmed(value.raw_json_token());
            double v;
            if (parse_integer(token.data(), token.size(), &integer)) {
                if (value.get_double().get(v) || !scale(integer, unit, &out->time)) return {TL_JSON_BAD_TIME, column};
            } else if (value.get_double().get(v) || !scale(v, unit, &out->time)) {
                return {TL_JSON_BAD_TIME, column};
            }
        } else if (type == ondemand::json_type::string) {
            std::string_view text;
            if (value.get_string().get(text)) return {TL_JSON_MALFORMED, column};
            if (unit != TL_JSON_RFC3339 && parse_integer(text.data(), text.size(), &integer)) {
                if (!scale(integer, unit, &out->time)) return {TL_JSON_BAD_TIME, column};
            } else {
                tl_json_status_t status = tl_rfc3339(text.data(), text.size(), assume_utc, &out->time);
                if (status != TL_JSON_OK) return {status, column};
            }
        } else {
            return {TL_JSON_WRONG_TYPE, column};
        }
        if (!plausible(out->time)) return {TL_JSON_BAD_TIME, column};
        out->present = 1;
        return {TL_JSON_OK, -1};
    }

    Failure vector_of(ondemand::value &value, ondemand::json_type type, int column, tl_json_value_t *out) {
        ondemand::array array;
        if (type != ondemand::json_type::array) return {TL_JSON_WRONG_TYPE, column};
        if (value.get_array().get(array)) return {TL_JSON_MALFORMED, column};
        const size_t dimension = columns[column].dimension;
        size_t count = 0;
        bool zero = true;
        for (auto item : array) {
            ondemand::value element;
            if (auto error = std::move(item).get(element)) return {status_of(error), column};
            if (count == dimension) return {TL_JSON_VECTOR_LENGTH, column};
            ondemand::json_type kind;
            if (element.type().get(kind)) return {TL_JSON_MALFORMED, column};
            if (kind != ondemand::json_type::number) return {TL_JSON_WRONG_TYPE, column};
            double v;
            if (element.get_double().get(v)) return {TL_JSON_NUMBER_RANGE, column};
            const float f = static_cast<float>(v);
            if (!std::isfinite(f)) return {TL_JSON_NUMBER_RANGE, column};
            zero = zero && f == 0;
            vector[count++] = f;
        }
        if (count != dimension) return {TL_JSON_VECTOR_LENGTH, column};
        if (zero) return {TL_JSON_VECTOR_ZERO, column};
        out->text = reinterpret_cast<const char *>(vector.data());
        out->length = static_cast<uint32_t>(dimension * sizeof(float));
        out->present = 1;
        return {TL_JSON_OK, -1};
    }

    Failure leaf(ondemand::value &value, int column, tl_json_value_t *out, uint64_t *seen) {
        uint64_t bit = 1ull << (column & 63);
        if (seen[column >> 6] & bit) return {TL_JSON_REPEATED, column};
        seen[column >> 6] |= bit;
        ondemand::json_type type;
        if (value.type().get(type)) return {TL_JSON_MALFORMED, column};
        if (type == ondemand::json_type::null) {
            bool null = false;
            return value.is_null().get(null) || !null ? Failure{TL_JSON_MALFORMED, column} : Failure{TL_JSON_OK, -1};
        }
        switch (columns[column].kind) {
            case TL_JSON_NUMBER: return number(value, type, column, out);
            case TL_JSON_TIME: return time(value, type, column, out);
            case TL_JSON_VECTOR: return vector_of(value, type, column, out);
            default: return text(value, type, column, out);
        }
    }

    static int first_column(const Node &node) {
        return node.column >= 0 ? node.column : first_column(node.children.front());
    }

    Failure object(ondemand::object &object, const Node &node, tl_json_value_t *out, uint64_t *seen) {
        size_t expected = 0;
        const size_t count = node.children.size();
        uint64_t entered = 0;
        for (auto item : object) {
            ondemand::field field;
            if (auto error = std::move(item).get(field)) return {status_of(error), -1};
            const char *raw = field.key().raw();
            const Node *match = nullptr;
            // Producers write their keys in one order: the child after the last one is tried first.
            for (size_t k = 0; k < count; k++) {
                size_t at = expected + k < count ? expected + k : expected + k - count;
                const std::string &name = node.children[at].name;
                if (std::memcmp(raw, name.data(), name.size()) == 0 && raw[name.size()] == '"') {
                    match = &node.children[at];
                    expected = at + 1 < count ? at + 1 : 0;
                    break;
                }
            }
            if (!match) {
                const char *p = raw;
                while (*p != '"' && *p != '\\') p++;
                if (*p == '"') continue;
                std::string_view key;
                if (field.unescaped_key().get(key)) return {TL_JSON_MALFORMED, -1};
                for (const Node &child : node.children)
                    if (key == child.name) match = &child;
                if (!match) continue;
            }
            ondemand::value value = field.value();
            Failure failure{TL_JSON_OK, -1};
            if (match->column >= 0) {
                failure = leaf(value, match->column, &out[match->column], seen);
            } else {
                uint64_t bit = 1ull << ((match - node.children.data()) & 63);
                if (entered & bit) return {TL_JSON_REPEATED, first_column(*match)};
                entered |= bit;
                ondemand::json_type type;
                if (value.type().get(type)) return {TL_JSON_MALFORMED, -1};
                if (type == ondemand::json_type::object) {
                    ondemand::object child;
                    if (value.get_object().get(child)) return {TL_JSON_MALFORMED, -1};
                    failure = this->object(child, *match, out, seen);
                } else if (type != ondemand::json_type::null) {
                    failure = {TL_JSON_WRONG_TYPE, first_column(*match)};
                }
            }
            if (failure.status != TL_JSON_OK) return failure;
        }
        return {TL_JSON_OK, -1};
    }
};

extern "C" {

tl_json_t *tl_json_create(const tl_json_column_t *columns, int count, int assume_utc) {
    tl_json_t *json = new (std::nothrow) tl_json;
    if (!json || count < 0 || count > 256) {
        delete json;
        return nullptr;
    }
    json->assume_utc = assume_utc != 0;
    json->columns.assign(columns, columns + count);
    for (int i = 0; i < count; i++)
        if (!json->insert(columns[i].path, i)) {
            delete json;
            return nullptr;
        }
    for (auto &column : json->columns) {
        column.path = nullptr;
        if (column.kind == TL_JSON_VECTOR) json->vector.resize(column.dimension);
    }
    return json;
}

void tl_json_destroy(tl_json_t *json) { delete json; }

tl_json_status_t tl_json_decode(tl_json_t *json, const char *bytes, size_t length, size_t readable,
                                tl_json_value_t *values, int *column) {
    *column = -1;
    const int count = static_cast<int>(json->columns.size());
    for (int i = 0; i < count; i++) values[i] = {nullptr, 0, 0, std::numeric_limits<double>::quiet_NaN(), 0};
    if (length >= 3 && std::memcmp(bytes, "\xEF\xBB\xBF", 3) == 0) {
        bytes += 3;
        length -= 3;
        readable -= 3;
    }
    if (length == 0) return TL_JSON_EMPTY;
    if (readable < length + SIMDJSON_PADDING) {
        if (json->padded.size() < length + SIMDJSON_PADDING) json->padded.resize((length + SIMDJSON_PADDING) * 2);
        std::memcpy(json->padded.data(), bytes, length);
        bytes = json->padded.data();
        readable = json->padded.size();
    }
    ondemand::document document;
    if (auto error = json->parser.iterate(bytes, length, readable).get(document)) return status_of(error);
    ondemand::json_type type;
    if (auto error = document.type().get(type)) return status_of(error);
    if (type != ondemand::json_type::object) return TL_JSON_NOT_AN_OBJECT;
    ondemand::object object;
    if (auto error = document.get_object().get(object)) return status_of(error);
    uint64_t seen[4] = {0};
    Failure failure = json->object(object, json->root, values, seen);
    if (failure.status != TL_JSON_OK) {
        *column = failure.column;
        return failure.status;
    }
    const char *rest;
    if (!document.current_location().get(rest)) return TL_JSON_TRAILING;
    for (int i = 0; i < count; i++)
        if (json->columns[i].required && !values[i].present) {
            *column = i;
            return TL_JSON_MISSING;
        }
    return TL_JSON_OK;
}

tl_json_status_t tl_rfc3339(const char *p, size_t n, int assume_utc, int64_t *microseconds) {
    unsigned year, month, day, hour, minute, second;
    if (n < 19 || !digits(p, 4, &year) || p[4] != '-' || !digits(p + 5, 2, &month) || p[7] != '-' ||
        !digits(p + 8, 2, &day) || (p[10] != 'T' && p[10] != 't' && p[10] != ' ') || !digits(p + 11, 2, &hour) ||
        p[13] != ':' || !digits(p + 14, 2, &minute) || p[16] != ':' || !digits(p + 17, 2, &second))
        return TL_JSON_BAD_TIME;
    static const unsigned lengths[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    if (month < 1 || month > 12 || day < 1 || day > lengths[month - 1] + (month == 2 && leap) || hour > 23 ||
        minute > 59 || second > 60)
        return TL_JSON_BAD_TIME;
    size_t i = 19;
    int64_t fraction = 0;
    if (i < n && p[i] == '.') {
        size_t start = ++i;
        int64_t unit = 100000;
        for (; i < n && p[i] >= '0' && p[i] <= '9'; i++, unit /= 10) fraction += (p[i] - '0') * unit;
        if (i == start) return TL_JSON_BAD_TIME;
    }
    int64_t offset = 0;
    if (i == n) {
        if (!assume_utc) return TL_JSON_NO_ZONE;
    } else if ((p[i] == 'Z' || p[i] == 'z') && i + 1 == n) {
        offset = 0;
    } else if ((p[i] == '+' || p[i] == '-') && i + 6 == n && p[i + 3] == ':') {
        unsigned h, m;
        if (!digits(p + i + 1, 2, &h) || !digits(p + i + 4, 2, &m) || h > 23 || m > 59) return TL_JSON_BAD_TIME;
        offset = (static_cast<int64_t>(h) * 60 + m) * 60 * (p[i] == '-' ? -1 : 1);
    } else {
        return TL_JSON_BAD_TIME;
    }
    int64_t seconds = days_from_civil(year, month, day) * 86400 + hour * 3600 + minute * 60 + second - offset;
    *microseconds = seconds * 1000000 + fraction;
    return TL_JSON_OK;
}
}
