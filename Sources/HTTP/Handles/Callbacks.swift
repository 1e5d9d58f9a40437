import CMicroHTTPD
import Glibc
import Synchronization

// What libmicrohttpd calls, each on its daemon's thread. Global functions: a closure could belong to an actor.

func connectionChanged(
    _ cls: UnsafeMutableRawPointer?, _ handle: OpaquePointer?,
    _ context: UnsafeMutablePointer<UnsafeMutableRawPointer?>?, _ code: MHD_ConnectionNotificationCode
) {
    guard let daemon = unsafe Daemon.from(cls), let handle = unsafe handle, let context = unsafe context else { return }
    if code == MHD_ConnectionNotificationCode(rawValue: 0) {
        let connection = Connection(daemon: daemon, descriptor: unsafe tl_mhd_descriptor(handle))
        daemon.add(connection)
        unsafe context.pointee = Unmanaged.passUnretained(connection).toOpaque()
    } else if let pointer = unsafe context.pointee {
        daemon.remove(unsafe Unmanaged<Connection>.fromOpaque(pointer).takeUnretainedValue())
        unsafe context.pointee = nil
    }
}

func requestLineRead(
    _ cls: UnsafeMutableRawPointer?, _ uri: UnsafePointer<CChar>?, _ handle: OpaquePointer?
) -> UnsafeMutableRawPointer? {
    guard let handle = unsafe handle, let uri = unsafe uri, let pointer = unsafe tl_mhd_socket_context(handle) else {
        return nil
    }
    unsafe Unmanaged<Connection>.fromOpaque(pointer).takeUnretainedValue().keepTarget(uri)
    return unsafe pointer
}

func requestCompleted(
    _ cls: UnsafeMutableRawPointer?, _ handle: OpaquePointer?,
    _ context: UnsafeMutablePointer<UnsafeMutableRawPointer?>?, _ code: MHD_RequestTerminationCode
) {
    guard let context = unsafe context, let pointer = unsafe context.pointee else { return }
    unsafe context.pointee = nil
    unsafe Unmanaged<Connection>.fromOpaque(pointer).takeUnretainedValue().completed()
}

func requestRead(
    _ cls: UnsafeMutableRawPointer?, _ handle: OpaquePointer?, _ url: UnsafePointer<CChar>?,
    _ method: UnsafePointer<CChar>?, _ version: UnsafePointer<CChar>?, _ upload: UnsafePointer<CChar>?,
    _ uploadSize: UnsafeMutablePointer<Int>?, _ context: UnsafeMutablePointer<UnsafeMutableRawPointer?>?
) -> MHD_Result {
    guard let handle = unsafe handle, let method = unsafe method, let version = unsafe version,
        let size = unsafe uploadSize,
        let pointer = unsafe context?.pointee
    else { return .NO }
    let connection = unsafe Unmanaged<Connection>.fromOpaque(pointer).takeUnretainedValue()
    if !connection.isBegun { return unsafe connection.begin(handle, method: method, version: version) }
    if unsafe size.pointee > 0 {
        let bytes = unsafe UnsafeRawBufferPointer(start: upload, count: size.pointee)
        unsafe size.pointee = 0
        return unsafe connection.take(bytes)
    }
    return unsafe connection.answer(handle)
}

func readStream(
    _ cls: UnsafeMutableRawPointer?, _ position: UInt64, _ buffer: UnsafeMutablePointer<CChar>?, _ size: Int
) -> Int {
    guard let cls = unsafe cls, let buffer = unsafe buffer else { return -1 }
    let stream = unsafe Unmanaged<EventStream>.fromOpaque(cls).takeUnretainedValue()
    return unsafe stream.read(into: UnsafeMutableRawBufferPointer(start: buffer, count: size))
}

func releaseStream(_ cls: UnsafeMutableRawPointer?) {
    guard let cls = unsafe cls else { return }
    unsafe Unmanaged<EventStream>.fromOpaque(cls).takeRetainedValue().closed()
}
