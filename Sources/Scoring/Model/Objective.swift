internal import CForest

/// What an objective does to margins, and how its base score becomes a margin.
///
/// XGBoost stores `base_score` on the scale of the prediction (a probability, a rate), and adds trees on the scale of
/// the margin. Objectives that are not in this list are refused by name.
struct Objective: Sendable, Equatable {
    enum Scale: Sendable { case margin, probability, rate }

    let name: String
    /// The scale of the base score.
    let scale: Scale
    /// CFOREST_LINK_….
    let link: Int32

    static func named(_ name: String) throws(ModelError) -> Objective {
        let (scale, link): (Scale, Int)
        switch name {
        case "reg:squarederror", "reg:linear", "reg:squaredlogerror", "reg:pseudohubererror", "reg:absoluteerror",
            "reg:quantileerror", "binary:logitraw", "rank:pairwise", "rank:ndcg", "rank:map":
            (scale, link) = (.margin, CFOREST_LINK_IDENTITY)
        case "reg:logistic", "binary:logistic": (scale, link) = (.probability, CFOREST_LINK_LOGISTIC)
        case "count:poisson", "reg:gamma", "reg:tweedie", "survival:cox", "survival:aft":
            (scale, link) = (.rate, CFOREST_LINK_EXP)
        case "binary:hinge": (scale, link) = (.margin, CFOREST_LINK_HINGE)
        case "multi:softprob": (scale, link) = (.margin, CFOREST_LINK_SOFTMAX)
        case "multi:softmax": (scale, link) = (.margin, CFOREST_LINK_ARGMAX)
        default:
            throw ModelError(
                .unsupported, "the objective `\(name)` is not known here",
                remedy: "train with one of XGBoost's own objectives, or score it by the remote scorer")
        }
        return Objective(name: name, scale: scale, link: Int32(link))
    }

    private init(name: String, scale: Scale, link: Int32) {
        self.name = name
        self.scale = scale
        self.link = link
    }

    var isMultiClass: Bool { link == CFOREST_LINK_SOFTMAX || link == CFOREST_LINK_ARGMAX }

    /// Outputs a row, of so many margins.
    func outputs(margins: Int) -> Int { link == CFOREST_LINK_ARGMAX ? 1 : margins }

    /// The margin of a base score; not finite where the score is none.
    func margin(base: Float) -> Float {
        switch scale {
        case .margin: base
        case .probability: cforest_logit(base)
        case .rate: cforest_log(base)
        }
    }
}
