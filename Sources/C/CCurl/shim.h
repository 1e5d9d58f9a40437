#pragma once
#include <curl/curl.h>

// libcurl's options are set by variadic calls, which Swift doesn't import.

typedef size_t (*tl_curl_receive)(char *bytes, size_t size, size_t count, void *cls);

static inline CURLcode tl_curl_set_long(CURL *handle, CURLoption option, long value) {
    return curl_easy_setopt(handle, option, value);
}

static inline CURLcode tl_curl_set_size(CURL *handle, CURLoption option, curl_off_t value) {
    return curl_easy_setopt(handle, option, value);
}

static inline CURLcode tl_curl_set_text(CURL *handle, CURLoption option, const char *value) {
    return curl_easy_setopt(handle, option, value);
}

static inline CURLcode tl_curl_set_pointer(CURL *handle, CURLoption option, void *value) {
    return curl_easy_setopt(handle, option, value);
}

static inline CURLcode tl_curl_set_receive(CURL *handle, CURLoption option, tl_curl_receive callback) {
    return curl_easy_setopt(handle, option, callback);
}

static inline CURLcode tl_curl_status(CURL *handle, long *status) {
    return curl_easy_getinfo(handle, CURLINFO_RESPONSE_CODE, status);
}
