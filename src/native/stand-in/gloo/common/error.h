// A stand-in: c10d's header asks for this file of gloo and uses nothing of it.
#pragma once
