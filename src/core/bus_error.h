// What a process says when a file that it has mapped became shorter, or its disk failed: reading the missing
// part raises SIGBUS, which cannot become an exception.
#pragma once

namespace winnow {

// From now on such a read ends the process with exit code 1 and a line on stderr that names the file, instead
// of a core dump. For programs; a library leaves signals to whoever uses it.
void explain_bus_errors();

}  // namespace winnow
