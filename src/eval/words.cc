#include "eval/words.h"

#include "core/check.h"

namespace winnow {
namespace {

constexpr std::string_view kAdjectives[] = {
    "amber",    "ancient",  "arctic",  "awkward",  "bashful",  "bitter",   "blue",     "bold",    "brave",
    "brazen",   "brief",    "bright",  "brisk",    "broad",    "bronze",   "calm",     "candid",  "careful",
    "cheerful", "chilly",   "civil",   "clever",   "coarse",   "cobalt",   "copper",   "coral",   "cosy",
    "crimson",  "crisp",    "curious", "curly",    "dapper",   "dark",     "daring",   "deep",    "dense",
    "distant",  "dizzy",    "dry",     "dusty",    "eager",    "early",    "earnest",  "eastern", "elastic",
    "elegant",  "empty",    "fabled",  "faint",    "fancy",    "fearless", "fertile",  "fierce",  "fluent",
    "foggy",    "fond",     "formal",  "fragile",  "frank",    "fresh",    "friendly", "frosty",  "frugal",
    "gallant",  "gentle",   "giant",   "gifted",   "gilded",   "glad",     "glossy",   "golden",  "graceful",
    "grand",    "grateful", "green",   "hasty",    "hazel",    "hearty",   "heavy",    "hidden",  "hollow",
    "honest",   "humble",   "hungry",  "icy",      "idle",     "indigo",   "ivory",    "jolly",   "jovial",
    "joyful",   "keen",     "kind",    "large",    "lavish",   "lazy",     "lean",     "lemon",   "light",
    "lively",   "lofty",    "lonely",  "loud",     "loyal",    "lucky",    "lunar",    "mellow",  "merry",
    "mighty",   "mild",     "misty",   "modest",   "muddy",    "narrow",   "neat",     "nimble",  "noble",
    "noisy",    "northern", "novel",   "odd",      "olive",    "opal",     "orange",   "orderly", "pale",
    "patient",  "perky",    "plain",   "playful",  "pleasant", "plump",    "polite",   "prompt",  "proper",
    "proud",    "purple",   "quaint",  "quick",    "quiet",    "radiant",  "rapid",    "rare",    "ready",
    "regal",    "restless", "rich",    "rigid",    "robust",   "rocky",    "rosy",     "rough",   "round",
    "royal",    "ruby",     "rural",   "rustic",   "sacred",   "salty",    "sandy",    "scarlet", "serene",
    "shady",    "sharp",    "shiny",   "shy",      "silent",   "silky",    "silver",   "simple",  "sincere",
    "sleepy",   "slender",  "smooth",  "snowy",    "sober",    "solar",    "solemn",   "solid",   "southern",
    "spare",    "spicy",    "steady",  "steep",    "stern",    "stormy",   "sturdy",   "subtle",  "sudden",
    "sunny",    "supple",   "sweet",   "swift",    "tall",     "tame",     "tawny",    "tender",  "thorny",
    "tidy",     "timid",    "tiny",    "tranquil", "true",     "upright",  "urban",    "useful",  "vague",
    "valiant",  "velvet",   "violet",  "vivid",    "warm",     "wary",     "wavy",     "western", "wild",
    "windy",    "wise",     "witty",   "woolly",   "young",    "zealous",
};

constexpr std::string_view kNouns[] = {
    "acorn",    "acrobat", "almond",   "anchor",     "angle",   "ankle",    "apron",    "arch",
    "arrow",    "artist",  "attic",    "badge",      "bakery",  "balcony",  "ballad",   "bamboo",
    "banner",   "barley",  "barrel",   "basin",      "basket",  "beacon",   "beaver",   "bell",
    "bench",    "berry",   "blanket",  "blossom",    "boat",    "bonnet",   "bottle",   "boulder",
    "bracket",  "branch",  "bridge",   "broom",      "bucket",  "butter",   "button",   "cabin",
    "cable",    "camel",   "camera",   "candle",     "canoe",   "canvas",   "canyon",   "carpet",
    "castle",   "cavern",  "cedar",    "cellar",     "chapel",  "cherry",   "chimney",  "circle",
    "clock",    "cloud",   "clover",   "coach",      "cobbler", "comet",    "compass",  "cottage",
    "cradle",   "crane",   "cricket",  "crown",      "cushion", "dagger",   "daisy",    "desert",
    "donkey",   "dragon",  "drawer",   "drum",       "eagle",   "easel",    "elbow",    "ember",
    "engine",   "falcon",  "farmer",   "feather",    "fence",   "ferry",    "fiddle",   "finch",
    "flagon",   "flame",   "flute",    "forest",     "fossil",  "fountain", "fox",      "gallery",
    "garden",   "garlic",  "gate",     "ginger",     "glacier", "glove",    "goblet",   "goose",
    "grape",    "guitar",  "hammer",   "hammock",    "harbor",  "harp",     "harvest",  "hatchet",
    "hazelnut", "hedge",   "helmet",   "heron",      "hinge",   "honey",    "horizon",  "hornet",
    "island",   "ivy",     "jacket",   "jaguar",     "jar",     "jewel",    "jungle",   "kettle",
    "kite",     "kitten",  "knight",   "ladder",     "lagoon",  "lantern",  "lark",     "laurel",
    "ledger",   "lentil",  "library",  "lighthouse", "lily",    "linen",    "lizard",   "locket",
    "lodge",    "lute",    "magnet",   "mantle",     "maple",   "marble",   "market",   "meadow",
    "medal",    "melon",   "mirror",   "mitten",     "monarch", "moss",     "motor",    "mountain",
    "museum",   "needle",  "nest",     "nettle",     "nickel",  "notebook", "nutmeg",   "oar",
    "oasis",    "orchard", "organ",    "otter",      "oven",    "owl",      "oyster",   "paddle",
    "palace",   "panther", "parcel",   "parrot",     "pasture", "peach",    "pebble",   "pelican",
    "pencil",   "pepper",  "piano",    "pigeon",     "pillow",  "pine",     "pitcher",  "planet",
    "plaza",    "plough",  "pocket",   "pond",       "poplar",  "portrait", "pottery",  "prairie",
    "puddle",   "pulley",  "pumpkin",  "puppet",     "quarry",  "quill",    "rabbit",   "radish",
    "raft",     "railway", "raven",    "reef",       "ribbon",  "river",    "robin",    "rocket",
    "rudder",   "saddle",  "sailor",   "salmon",     "satchel", "saucer",   "scarf",    "school",
    "seagull",  "shadow",  "shepherd", "shield",     "shovel",  "sickle",   "signal",   "sketch",
    "sleigh",   "sparrow", "spindle",  "spoon",      "spruce",  "squirrel", "stable",   "statue",
    "stove",    "stream",  "summit",   "swallow",    "table",   "tailor",   "teapot",   "temple",
    "thimble",  "thistle", "thunder",  "ticket",     "tiger",   "timber",   "torch",    "tower",
    "tractor",  "trumpet", "tulip",    "tunnel",     "turnip",  "turtle",   "umbrella", "valley",
    "vault",    "vessel",  "village",  "vineyard",   "violin",  "wagon",    "walnut",   "walrus",
    "wardrobe", "weaver",  "wharf",    "whistle",    "willow",  "window",   "wizard",   "workshop",
    "wren",     "yacht",   "zebra",
};

constexpr auto kAdjectiveCount = static_cast<std::int64_t>(std::size(kAdjectives));
constexpr auto kNounCount = static_cast<std::int64_t>(std::size(kNouns));

}  // namespace

std::span<const std::string_view> adjectives() { return kAdjectives; }
std::span<const std::string_view> nouns() { return kNouns; }

std::int64_t word_count() { return kAdjectiveCount + kNounCount + kAdjectiveCount * kNounCount; }

std::string word(std::int64_t index) {
  check(index >= 0 && index < word_count(), "word: one of the list");
  if (index < kAdjectiveCount) return std::string(kAdjectives[index]);
  index -= kAdjectiveCount;
  if (index < kNounCount) return std::string(kNouns[index]);
  index -= kNounCount;
  return std::string(kAdjectives[index / kNounCount]) + std::string(kNouns[index % kNounCount]);
}

}  // namespace winnow
