#include "cli/sample_text.h"

#include <array>
#include <random>
#include <utility>
#include <vector>

namespace winnow::cli {
namespace {

constexpr std::array<std::string_view, 14> kParagraphs{
    "The mill stood where the river narrowed, and everybody in the valley knew the sound of its wheel before "
    "they knew "
    "their own names. In dry summers it turned so slowly that the miller's children could count the paddles; "
    "in March, "
    "when the snow came down from the hills as water, it ran so fast that he tied it up at night for fear of "
    "fire.",
    "Grain arrived in sacks that weighed as much as a grown man. It was poured on the upper floor, and what "
    "fell through "
    "the sieve was neither flour nor dust but something in between, which the hens were glad of. \"Nothing "
    "leaves this "
    "house,\" the miller used to say, \"that has not been looked at twice.\"",
    "To winnow is to throw the threshed corn into the air and let the wind choose. The heavy grain drops at "
    "your feet; "
    "the husks, which have done their work, drift away over the wall. A good winnower needs no strength, "
    "only an eye for "
    "the weather and the patience to stop when the wind does.",
    "In the year 1846 the harvest was poor. The ledger of the parish, which the schoolmaster kept in a round "
    "and careful "
    "hand, records 312 bushels of wheat, 97 of barley and 40 of oats, against 505, 160 and 88 the year "
    "before. Under the "
    "figures he wrote a single sentence: the price of bread has doubled and nobody speaks of anything else.",
    "Rivers do not care for property. Every twenty years or so this one left its bed, crossed the lower "
    "meadow and "
    "settled on the other side of the alders, so that two families who had been neighbours found themselves "
    "with a bridge "
    "to build. The lawyers in the town were said to pray for rain.",
    "There is a method for finding the depth of a well without a rope. Drop a stone, count the seconds until "
    "you hear it, "
    "multiply the count by itself and then by sixteen: the answer is the depth in feet, or near enough for a "
    "bucket. The "
    "schoolmaster taught it every spring, and every spring a dozen stones went into the miller's well.",
    "The carrier came on Tuesdays and Fridays. He brought letters, lamp oil, needles, news that was three "
    "days old and "
    "opinions that were older. For a penny he would take a parcel as far as the crossroads; for two he would "
    "remember to "
    "ask for an answer.",
    "What is worth remembering? The clerk who copied the court rolls kept every word, and his successors "
    "needed a second "
    "room for the shelves, then a third. When at last somebody wanted to know who had owned the lower meadow "
    "in the time "
    "of the old queen, it took them eleven days to find a line of nine words.",
    "Bees, on the other hand, forget nothing that matters. A worker that has found a field of clover tells "
    "the others the "
    "direction and the distance, and not a thing about the weather, the road or her own adventures on it. "
    "The message is "
    "short because every wingbeat of it has to be paid for.",
    "On the shelf above the stove there were seven jars: salt, flour, dried peas, lentils, sugar (usually "
    "empty), tea, and "
    "one without a label in which the grandmother kept buttons, a brass key, and a letter that nobody was "
    "allowed to read. "
    "The key, it turned out much later, fitted the clock.",
    "The engineer who came to look at the bridge measured everything: the span, 23.4 metres; the rise, 3.1; "
    "the thickness "
    "of the arch at the crown, 0.62. He wrote that the structure was sound, that the parapet was not, and "
    "that the "
    "villagers should on no account drive more than one cart across it at a time.",
    "When the wind turns to the east, close the upper shutters first, then the lower ones, then call the "
    "children in. "
    "Bring the washing before the hens. If there is thunder, unhook the chain from the bell. These "
    "instructions were "
    "painted on the inside of the door, and behind them, fainter, the instructions of the family before.",
    "A traveller asked the ferryman how long the crossing took. \"That depends,\" said the ferryman, \"on "
    "whether you wish "
    "to arrive where you are pointing or somewhere else.\" They came ashore a quarter of a mile downstream, "
    "beside a "
    "path that, the traveller had to admit, led to the village rather more directly.",
    "By evening the floor was swept, the sacks were tied and the wheel stood still. One could hear how loud "
    "the river had "
    "been all along. The miller wrote the day's figures in his book, crossed one out, wrote it again exactly "
    "as before, "
    "and put out the lamp.",
};

// A Fisher-Yates shuffle of our own: std::shuffle differs between libraries.
std::vector<std::size_t> shuffled_order(std::mt19937_64& random) {
  std::vector<std::size_t> order;
  for (std::size_t i = 0; i < kParagraphs.size(); ++i) order.push_back(i);
  for (std::size_t i = order.size() - 1; i > 0; --i) std::swap(order[i], order[random() % (i + 1)]);
  return order;
}

}  // namespace

std::span<const std::string_view> sample_paragraphs() { return kParagraphs; }

std::string sample_text(std::size_t min_bytes, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::string text;
  while (text.size() < min_bytes) {
    for (const std::size_t paragraph : shuffled_order(random)) {
      text += kParagraphs[paragraph];
      text += "\n\n";
    }
  }
  return text;
}

}  // namespace winnow::cli
