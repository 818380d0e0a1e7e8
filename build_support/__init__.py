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
- `openblas.py`: the BLAS that an add-on is linked with
- `program.py`: small programs compiled against the built libraries
- `backend.py`: the PEP 517 door to it

and of what is given to others:

- `platforms.py`, `versions.py`: platform keys, versions and tags
- `elf.py`: what the loader reads of a library
- `libraries.py`: which libraries make a set, and what they need
- `gate.py`: the values that tell whether libraries fit an extension
- `c_files.py`: headers, pkg-config and CMake files
- `sbom.py`: what is inside the libraries, and its licences
- `companions.py`: a set as a folder
- `tarball.py`: a folder as an archive, the same bytes every time
- `wheels.py`: the wheels
- `addon_project.py`: the package of an add-on, as its setup.py makes it
- `release_manifest.py`: which files a release has
- `packaging.py`: all of that, in order
- `release.py`, `github.py`: checks before a release, and publishing it
- `packaging_cli.py`: the commands `package` and `release`
"""
