// Functions of a library that was opened at run time.
#pragma once

#include <dlfcn.h>

namespace winnow::cuda {

// Whether `library`, of dlopen(), has one of this name; `function` is null otherwise.
template <class Function>
bool find_function(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  return function != nullptr;
}

}  // namespace winnow::cuda
