from typing import Any

class _Lib:
    def ioflt_sectors(self, key: object, data: object, count: int, sector: int, action: int, /) -> int: ...

lib: _Lib
ffi: Any
