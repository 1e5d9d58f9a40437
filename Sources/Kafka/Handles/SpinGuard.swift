internal import CRdkafka
internal import CSpinGuard

/// Keeps a client's main thread from spinning before its timers, in the versions that do (`CSpinGuard.h`).
enum SpinGuard {
    /// The first version that waits for its timers.
    static let mendedIn: Int32 = 0x0204_0000

    static func install(_ configuration: OpaquePointer?) {
        guard rd_kafka_version() < mendedIn else { return }
        unsafe rd_kafka_conf_interceptor_add_on_new(configuration, "tideline", clientMade, nil)
    }
}

private func clientMade(
    _ handle: OpaquePointer?, _ configuration: OpaquePointer?, _ opaque: UnsafeMutableRawPointer?,
    _ text: UnsafeMutablePointer<CChar>?, _ length: Int
) -> rd_kafka_resp_err_t {
    unsafe rd_kafka_interceptor_add_on_thread_start(handle, "tideline", threadStarted, nil)
}

private func threadStarted(
    _ handle: OpaquePointer?, _ type: rd_kafka_thread_type_t, _ name: UnsafePointer<CChar>?,
    _ opaque: UnsafeMutableRawPointer?
) -> rd_kafka_resp_err_t {
    if type == RD_KAFKA_THREAD_MAIN { spin_guard_watch_this_thread() }
    return RD_KAFKA_RESP_ERR_NO_ERROR
}
