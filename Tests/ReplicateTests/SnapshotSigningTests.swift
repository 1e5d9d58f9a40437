import Foundation
import Testing

@testable import Replicate

@Suite struct SnapshotSigningTests {
    @Test func anEnvelopeIsReadAsItWasSigned() throws {
        let key = try SigningKey()
        let signed = try SignedManifest(TestSealer.manifest(), by: key)
        let read = try SignedManifest(decoding: signed.encoded, trusting: key.trusted)
        #expect(read == signed && read.encoded == signed.encoded && read.keyId == key.id)
    }

    @Test func nothingInItMayBeChanged() throws {
        let key = try SigningKey()
        let envelope = try SignedManifest(TestSealer.manifest(), by: key).encoded
        for index in envelope.indices {
            var changed = envelope
            changed[index] ^= 1
            let reason = try refusal { _ = try SignedManifest(decoding: changed, trusting: key.trusted) }
            #expect(reason == .signature || (reason == .malformed && index < 167), "byte \(index)")
        }
        for count in [0, 1, 18, 100, 165, 166, 167, envelope.count - 1] {
            let cut = Array(envelope.prefix(count))
            #expect(try refusal { _ = try SignedManifest(decoding: cut, trusting: key.trusted) } != nil)
        }
        #expect(
            try refusal { _ = try SignedManifest(decoding: envelope + [0x20], trusting: key.trusted) } == .signature)
    }

    /// What is not signed is not even parsed.
    @Test func theSignatureComesFirst() throws {
        let key = try SigningKey()
        let noise = Array("no manifest at all".utf8)
        let head = "tideline-snapshot 1 \(key.id) \(try key.sign(noise).hexadecimal)\n"
        #expect(
            try refusal { _ = try SignedManifest(decoding: Array(head.utf8) + noise, trusting: key.trusted) }
                == .malformed)
        #expect(
            try refusal { _ = try SignedManifest(decoding: Array(head.utf8) + noise + noise, trusting: key.trusted) }
                == .signature)
        let huge = Array(head.utf8) + [UInt8](repeating: 0x20, count: SnapshotManifest.bytesMax + 1)
        #expect(try refusal { _ = try SignedManifest(decoding: huge, trusting: key.trusted) } == .tooLarge)
        let later = Array(head.replacing("snapshot 1", with: "snapshot 2").utf8) + noise
        #expect(try refusal { _ = try SignedManifest(decoding: later, trusting: key.trusted) } == .malformed)
    }

    @Test func anotherKeyIsNotTrusted() throws {
        let (key, other) = (try SigningKey(), try SigningKey())
        let signed = try SignedManifest(TestSealer.manifest(), by: key)
        #expect(try refusal { _ = try SignedManifest(decoding: signed.encoded, trusting: other.trusted) } == .signature)
        // Under the trusted key's name it does not pass either.
        let forged = String(decoding: signed.encoded, as: UTF8.self).replacing(key.id, with: other.id)
        #expect(
            try refusal { _ = try SignedManifest(decoding: Array(forged.utf8), trusting: other.trusted) } == .signature)
        // While one key takes the place of another, both are trusted.
        let both = key.trusted.union(other.trusted)
        #expect(try SignedManifest(decoding: signed.encoded, trusting: both) == signed)
        #expect(both.ids == [key.id, other.id].sorted())
    }

    @Test func keysAreKeptInFiles() throws {
        let folder = try TestFolder()
        let (path, publicPath) = (folder.path + "/snapshot.key", folder.path + "/snapshot.pub")
        let key = try SigningKey()
        try key.save(to: path)
        try key.savePublic(to: publicPath)
        #expect(try FileManager.default.attributesOfItem(atPath: path)[.posixPermissions] as? Int == 0o600)
        #expect(throws: SnapshotFileError.self) { try key.save(to: path) }
        #expect(throws: SnapshotFileError.self) { try key.savePublic(to: publicPath) }
        let (again, trusted) = (try SigningKey(path: path), try TrustedKeys(paths: [publicPath]))
        #expect(again.id == key.id && trusted.ids == [key.id])
        try trusted.verify([1, 2, 3], signature: again.sign([1, 2, 3]), keyId: key.id)
        #expect(try again.sign([1, 2, 3]) == key.sign([1, 2, 3]))
    }

    @Test func filesThatAreNoKeysAreNamed() throws {
        let folder = try TestFolder()
        let path = folder.path + "/snapshot.key"
        let key = try SigningKey()
        try key.save(to: path)
        #expect(throws: SnapshotFileError.self) { try TrustedKeys(paths: [path]) }
        #expect(throws: SnapshotFileError.self) { try TrustedKeys(paths: [folder.path + "/none"]) }
        try FileManager.default.setAttributes([.posixPermissions: 0o644], ofItemAtPath: path)
        do {
            _ = try SigningKey(path: path)
            Issue.record("everybody may read it")
        } catch { #expect("\(error)".contains("chmod 600 \(path)")) }
        let other = try folder.write("other", bytes: 300)
        #expect(throws: SnapshotFileError.self) { try TrustedKeys(paths: [other]) }
    }

    @Test func hashesAreThoseOfTheStandard() throws {
        #expect(
            try SHA256.hex(of: Array("abc".utf8))
                == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
        #expect(try SHA256.hex(of: []) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
        let folder = try TestFolder()
        let path = try folder.write("file", bytes: (2 << 20) + 17)
        #expect(try SHA256.hex(ofFileAt: path) == SHA256.hex(of: Array(Data(contentsOf: URL(filePath: path)))))
        #expect(throws: SnapshotFileError.self) { try SHA256.hex(ofFileAt: folder.path + "/none") }
        #expect(throws: SnapshotFileError.self) { try SHA256.hex(ofFileAt: folder.path) }
    }
}
