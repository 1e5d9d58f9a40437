import Changes
import Foundation
import Testing

@testable import Replicate

@Suite struct SnapshotManifestTests {
    @Test func whatIsWrittenIsRead() throws {
        let manifest = try TestSealer.manifest()
        let bytes = try manifest.encoded()
        #expect(try SnapshotManifest(decoding: bytes) == manifest)
        #expect(try SnapshotManifest(decoding: bytes).encoded() == bytes)
        #expect(manifest.bytes == 13 && manifest.files.count == 2 && manifest.bytes(of: .segments) == 12)
    }

    /// 64 bits survive a reader that knows 53: they are text.
    @Test func wideNumbersAreText() throws {
        let object = try #require(
            try JSONSerialization.jsonObject(with: Data(TestSealer.manifest().encoded())) as? [String: Any])
        #expect(object["model"] as? String == "fedcba9876543210")
        let position = try #require((object["positions"] as? [[String: Any]])?.first)
        #expect(position["seq"] as? String == "18446744073709551615")
        #expect(position["commitTime"] as? String == "-9223372036854775808")
    }

    @Test(arguments: [
        ("\"version\":1", "\"version\":2", SnapshotRefusal.Reason.malformed, "version 2"),
        ("\"number\":\"1\"", "\"number\":\"0\"", .malformed, "counted from 1"),
        ("\"number\":\"1\"", "\"number\":\"01\"", .malformed, "number"),
        ("\"number\":\"1\"", "\"number\":1", .malformed, "number"),
        ("\"createdAt\"", "\"madeAt\"", .malformed, "createdAt"),
        ("\"seq\":\"18446744073709551615\"", "\"seq\":\"18446744073709551616\"", .malformed, "seq"),
        ("\"digest\":\"0000000000000102\"", "\"digest\":\"102\"", .malformed, "digest"),
        ("fedcba9876543210", "FEDCBA9876543210", .malformed, "model"),
        ("00000000-0000-0007-0000-00000000000b", "elsewhere", .malformed, "lineage"),
        ("\"metric\":\"l2\"", "\"metric\":\"hamming\"", .malformed, "hamming"),
        ("\"pipeline\":\"cards\"", "\"pipeline\":\"../cards\"", .malformed, "../cards"),
        ("\"dimensions\":32", "\"dimensions\":-1", .malformed, "-1 dimensions"),
        ("\"dimensions\":32", "\"dimensions\":0", .malformed, "without dimensions"),
        ("\"dimensions\":32", "\"dimensions\":1000000", .malformed, "1000000 dimensions"),
        ("a1a1a1", "a1A1a1", .malformed, "no SHA-256"), ("a1a1a1", "a1", .malformed, "no SHA-256"),
        ("\"bytes\":12", "\"bytes\":0", .empty, "0 bytes"), ("\"bytes\":12", "\"bytes\":-3", .empty, "-3 bytes"),
        ("\"bytes\":12", "\"bytes\":1.5", .malformed, "no manifest"), ("\"rows\":9", "\"rows\":0", .empty, "no rows"),
        ("\"recall\":0.98", "\"recall\":1.5", .malformed, "recall"),
        ("\"recall\":0.98", "\"recall\":-0.1", .malformed, "recall"),
        ("000012.sst", "../000012.sst", .malformed, "may not be named"),
        ("000012.sst", "a\\/b", .malformed, "may not be named"), ("000012.sst", "..", .malformed, "may not be named"),
        ("000012.sst", "", .malformed, "may not be named"), ("000012.sst", "a\\u0000b", .malformed, "may not be named"),
        ("{", "[", .malformed, "no manifest"),
    ])
    func eachMistakeIsRefused(_ part: String, _ other: String, _ reason: SnapshotRefusal.Reason, _ words: String) throws
    {
        let text = String(decoding: try TestSealer.manifest().encoded(), as: UTF8.self)
        let range = try #require(text.range(of: part))
        do {
            _ = try SnapshotManifest(decoding: Array(text.replacingCharacters(in: range, with: other).utf8))
            Issue.record("\(other) was taken")
        } catch {
            #expect(error.reason == reason && error.detail.contains(words), "\(error)")
        }
    }

    @Test func whatCannotBeIsNotEncoded() throws {
        var manifest = try TestSealer.manifest()
        manifest.positions = []
        #expect(try refusal { _ = try manifest.encoded() } == .malformed)
        manifest = try TestSealer.manifest()
        manifest.positions[1].lineage = Lineage(high: 1, low: 1)
        #expect(try refusal { _ = try manifest.encoded() } == .malformed)
        manifest = try TestSealer.manifest()
        manifest.tables += manifest.tables
        #expect(try refusal { _ = try manifest.encoded() } == .malformed)
        manifest = try TestSealer.manifest()
        manifest.segments += manifest.segments
        #expect(try refusal { _ = try manifest.encoded() } == .malformed, "a tenant's segment twice")
        manifest.segments[1].tenant = "globex"
        #expect(try refusal { _ = try manifest.encoded() } == nil, "two tenants may share what is equal")
        manifest = try TestSealer.manifest()
        manifest.segments += manifest.segments.map {
            var other = $0
            other.file = SnapshotFile.sample(digit: "a1", bytes: 13)
            return other
        }
        #expect(try refusal { _ = try manifest.encoded() } == .malformed, "one hash, two sizes")
        manifest.segments = []
        manifest.tables = []
        #expect(try refusal { _ = try manifest.encoded() } == .empty)
        manifest = try TestSealer.manifest()
        manifest.segments[0].recall = .nan
        #expect(try refusal { _ = try manifest.encoded() } == .malformed)
        manifest.segments = []
        manifest.tables = (0...SnapshotManifest.entriesMax).map {
            SnapshotTable(name: "\($0)", file: .sample(digit: "bb", bytes: 1))
        }
        #expect(try refusal { _ = try manifest.encoded() } == .tooLarge)
        manifest.tables.removeLast()
        #expect(try refusal { _ = try manifest.encoded() } == .tooLarge, "no message of the bus takes it")
    }

    @Test func neitherNothingNorNoise() throws {
        #expect(try refusal { _ = try SnapshotManifest(decoding: []) } == .empty)
        #expect(
            try refusal { _ = try SnapshotManifest(decoding: [UInt8](repeating: 0x5B, count: 100_000)) } == .malformed)
        #expect(
            try refusal {
                _ = try SnapshotManifest(decoding: [UInt8](repeating: 0x20, count: SnapshotManifest.bytesMax + 1))
            } == .tooLarge)
        let bytes = try TestSealer.manifest().encoded()
        for count in stride(from: 0, to: bytes.count, by: 7) {
            #expect(try refusal { _ = try SnapshotManifest(decoding: Array(bytes.prefix(count))) } != nil)
        }
    }

    /// Sizes that add up beyond 64 bits are a size all the same, and over each limit.
    @Test func sizesDoNotWrap() throws {
        var manifest = try TestSealer.manifest()
        manifest.tables = [
            SnapshotTable(name: "a", file: .sample(digit: "cc", bytes: .max)),
            SnapshotTable(name: "b", file: .sample(digit: "dd", bytes: .max)),
        ]
        #expect(try SnapshotManifest(decoding: manifest.encoded()).bytes == .max)
    }

    @Test func namesOfSnapshots() throws {
        let name = SnapshotName(lineage: TestSealer.lineage, number: 42)
        #expect(SnapshotName("\(name)") == name)
        for text in [
            "", "42", "\(TestSealer.lineage)", "\(name).unfinished", "\(TestSealer.lineage)-042",
            "\(TestSealer.lineage)-0", "\(name)/..", "\(TestSealer.lineage)-+1",
        ] { #expect(SnapshotName(text) == nil, "\(text)") }
    }

    @Test func termsNameWhatDoesNotFit() throws {
        let manifest = try TestSealer.manifest(number: 5)
        var terms = SnapshotTerms(
            pipeline: "cards", schema: 3, model: manifest.model, dimensions: 32, metric: "l2", partitions: 2)
        try terms.check(manifest)
        terms.newerThan = SnapshotName(lineage: Lineage(high: 1, low: 1), number: 9)
        try terms.check(manifest)
        let changes: [(SnapshotRefusal.Reason, (inout SnapshotTerms) -> Void)] = [
            (.pipeline, { $0.pipeline = "clicks" }), (.pipeline, { $0.schema = 4 }), (.model, { $0.model = 0 }),
            (.dimension, { $0.dimensions = 31 }), (.dimension, { $0.metric = "cosine" }),
            (.lineage, { $0.lineage = Lineage(high: 1, low: 1) }), (.lineage, { $0.partitions = 3 }),
            (.older, { $0.newerThan = manifest.name }), (.tooLarge, { $0.bytesMax = 12 }),
            (.recall, { $0.recallMin = 0.99 }),
        ]
        for (reason, change) in changes {
            var other = terms
            change(&other)
            #expect(try refusal { try other.check(manifest) } == reason)
        }
    }
}

extension SnapshotFile {
    /// A file that is nowhere.
    static func sample(digit: String, bytes: Int) -> SnapshotFile {
        guard let file = try? SnapshotFile(sha256: String(repeating: digit, count: 32), bytes: bytes) else {
            preconditionFailure("a sample is sound")
        }
        return file
    }
}
