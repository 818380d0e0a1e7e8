"""What `build_lib.py` is made of: one concept a file, nothing of it is installed.

- `errors.py`: the one error a build raises, with its next step
- `pin.py`: llamacore_sys/UPSTREAM, parsed and checked
- `cache.py`: where downloads live
- `source.py`: the pinned source: download, hash, unpack, or a checkout of the user's
- `archive.py`: unpacking a tar file that is not trusted
- `config.py`: profile and back ends to CMake options
- `toolchain.py`: cmake, ninja, compilers, Python headers
- `bindings.py`: cdef files to the extension's C source
- `process.py`: a command with a log file and progress
- `lock.py`: one build at a time
- `package.py`: built files into the package, all or nothing
- `builder.py`: the whole build, in order
- `program.py`: small programs compiled against the built libraries
- `backend.py`: the PEP 517 door to it
"""
