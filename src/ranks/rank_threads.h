// How many threads a rank takes where a host has several.
#pragma once

namespace winnow {

// Threads for one of `ranks` on this host: `asked`, if it is not 0; else 0 where OMP_NUM_THREADS speaks for
// every process; else its share of the cores that this process may use, at least 1. Whoever binds each rank
// to cores of its own (mpirun --bind-to) says how many threads it takes.
int threads_of_rank(int asked, int ranks);

}  // namespace winnow
