// swift-tools-version: 6.2
import PackageDescription

// The import table of docs/architecture.md, said to the compiler. `Tests/HouseTests` holds the two together.

/// A Debian library, seen through a module map.
func debian(_ name: String, pkgConfig: String, package: String) -> Target {
    .systemLibrary(name: name, path: "Sources/C/\(name)", pkgConfig: pkgConfig, providers: [.apt([package])])
}

/// C or C++ of our own behind a C header.
func kernel(_ name: String, linked: [String] = [], headers: String? = nil) -> Target {
    .target(
        name: name,
        path: "Sources/C/\(name)",
        cSettings: [.unsafeFlags(["-O2", "-ffp-contract=off"])],
        cxxSettings: [.unsafeFlags(["-O2", "-ffp-contract=off"])] + (headers.map { [.headerSearchPath($0)] } ?? []),
        linkerSettings: linked.map { .linkedLibrary($0) }
    )
}

let strict: [SwiftSetting] = [.swiftLanguageMode(.v6), .strictMemorySafety()]

/// The rooms that an event passes run without the exclusivity checks in release (7 % of the scoring thread, perf); the
/// tests, which build debug, keep them.
let eventPath: [SwiftSetting] =
    strict + [
        .unsafeFlags(["-enforce-exclusivity=unchecked"], .when(configuration: .release))
    ]

func room(
    _ name: String, _ imports: [String], resources: [Resource] = [], settings: [SwiftSetting] = strict
) -> Target {
    .target(
        name: name,
        dependencies: imports.map { .byName(name: $0) },
        resources: resources,
        swiftSettings: settings
    )
}

func suite(_ name: String, _ imports: [String], resources: [Resource] = []) -> Target {
    .testTarget(
        name: name,
        dependencies: imports.map { .byName(name: $0) },
        resources: resources,
        swiftSettings: [.swiftLanguageMode(.v6)]
    )
}

let package = Package(
    name: "Tideline",
    products: [.executable(name: "tideline", targets: ["Tideline"])],
    targets: [
        debian("CRocksDB", pkgConfig: "rocksdb", package: "librocksdb-dev"),
        debian("CRdkafka", pkgConfig: "rdkafka", package: "librdkafka-dev"),
        debian("CNATS", pkgConfig: "libnats", package: "libnats-dev"),
        debian("CZstd", pkgConfig: "libzstd", package: "libzstd-dev"),
        debian("CLZ4", pkgConfig: "liblz4", package: "liblz4-dev"),
        debian("CMicroHTTPD", pkgConfig: "libmicrohttpd", package: "libmicrohttpd-dev"),
        debian("CYAML", pkgConfig: "yaml-0.1", package: "libyaml-dev"),
        debian("CCurl", pkgConfig: "libcurl", package: "libcurl4-openssl-dev"),
        debian("COpenSSL", pkgConfig: "libcrypto", package: "libssl-dev"),
        debian("CZlib", pkgConfig: "zlib", package: "zlib1g-dev"),
        kernel("CForest"),
        kernel("CJSON", linked: ["simdjson", "stdc++"]),
        kernel("CVectors"),
        // Static; it needs LAPACK, BLAS and GCC's OpenMP, in this order.
        kernel("CFaiss", linked: ["faiss", "lapack", "blas", "gomp", "stdc++", "m"], headers: "stub"),
        kernel("CWindows"),
        kernel("CChecksum"),
        kernel("CProcess"),
        kernel("CSpinGuard", linked: ["dl"]),

        room("Service", []),
        room("Changes", ["CChecksum", "CLZ4", "CZstd"], settings: eventPath),
        room("Storage", ["Changes", "CRocksDB"], settings: eventPath),
        room("Vectors", ["Changes", "CChecksum", "CFaiss", "CVectors"]),
        room("Features", ["Changes", "Storage", "CJSON", "CWindows", "CYAML"], settings: eventPath),
        room("Scoring", ["Changes", "Features", "CForest"], settings: eventPath),
        room("HTTP", ["CMicroHTTPD", "CCurl"]),
        room("Core", ["Service", "Changes", "Storage", "Features", "Scoring", "HTTP"], settings: eventPath),
        room("Transactions", ["Service", "Changes", "Core"]),
        room("Kafka", ["Service", "Changes", "Storage", "Core", "Transactions", "CRdkafka", "CSpinGuard"]),
        room("Replicate", ["Service", "Changes", "Storage", "COpenSSL"]),
        room("NATS", ["Service", "Changes", "Replicate", "CNATS"]),
        room(
            "Edge", ["Service", "Changes", "Storage", "Vectors", "Features", "Scoring", "Replicate", "HTTP"],
            resources: [.embedInCode("Page/index.html")]),
        room(
            "Simulation",
            ["Service", "Changes", "Storage", "Features", "Core", "Transactions", "Replicate", "Edge"]),
        .executableTarget(
            name: "Tideline",
            dependencies: [
                "Service", "Changes", "Storage", "Vectors", "Features", "Scoring", "HTTP", "Core", "Kafka", "Replicate",
                "NATS", "Edge", "Simulation", "CProcess", "CZlib",
            ],
            swiftSettings: strict
        ),

        .executableTarget(
            name: "ForestBench",
            dependencies: ["Scoring", "CForest"],
            path: "loadtest/Bench/Forest",
            swiftSettings: [.swiftLanguageMode(.v6)]
        ),

        .executableTarget(
            name: "PipelineBench",
            dependencies: ["Core", "Kafka", "Changes", "Features", "Scoring", "Service", "Storage"],
            path: "loadtest/Bench/Pipeline",
            swiftSettings: [.swiftLanguageMode(.v6)]
        ),

        .executableTarget(
            name: "VectorsBench",
            dependencies: ["Vectors"],
            path: "loadtest/Bench/Vectors",
            swiftSettings: [.swiftLanguageMode(.v6)]
        ),

        .executableTarget(
            name: "QueryBench",
            path: "loadtest/Bench/Query",
            swiftSettings: [.swiftLanguageMode(.v6)]
        ),

        .target(name: "CAllocations", path: "Tests/CAllocations"),
        suite("HouseTests", []),
        suite("ChangesTests", ["Changes", "CChecksum"]),
        suite("StorageTests", ["Storage", "Changes"]),
        suite("FeaturesTests", ["Features", "Changes", "CWindows"]),
        suite("ScoringTests", ["Scoring", "CForest", "CAllocations"], resources: [.copy("Fixtures")]),
        suite("HTTPTests", ["HTTP"]),
        suite("CoreTests", ["Core", "Changes", "Features", "Scoring", "Storage", "CAllocations"]),
        suite(
            "KafkaTests", ["Kafka", "CRdkafka", "Transactions", "Core", "Changes", "Features", "Service", "Storage"]),
        suite("ReplicateTests", ["Replicate", "Changes", "Service", "Storage"]),
        suite(
            "NATSTests",
            ["NATS", "CNATS", "Edge", "Core", "Features", "Replicate", "Changes", "Service", "Storage"]),
        suite(
            "EdgeTests",
            [
                "Edge", "Core", "Replicate", "Changes", "Features", "Scoring", "Storage", "Service", "HTTP",
                "Vectors", "CAllocations",
            ]),
        suite("SimulationTests", ["Simulation", "Transactions", "Core", "Changes", "Edge", "Service"]),
        suite("TidelineTests", ["Tideline", "Changes", "Core", "Features", "HTTP", "Replicate", "Storage"]),
        suite("VectorsTests", ["Vectors", "CFaiss"]),
    ],
    cxxLanguageStandard: .cxx17
)
