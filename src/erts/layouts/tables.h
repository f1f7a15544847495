/* SPDX-License-Identifier: Apache-2.0 */
/* The built-in layout tables; each is a generated file of this directory (tools/otp-layout). */
#ifndef BEAMRAY_ERTS_LAYOUTS_TABLES_H
#define BEAMRAY_ERTS_LAYOUTS_TABLES_H

#include "erts/layout.h"

extern const struct layout layout_otp_23_x86_64;
extern const struct layout layout_otp_23_x86_64_hipe;
extern const struct layout layout_otp_25_x86_64;
extern const struct layout layout_otp_25_x86_64_emu;
extern const struct layout layout_otp_27_x86_64;
extern const struct layout layout_otp_27_x86_64_emu;
extern const struct layout layout_otp_29_x86_64;
extern const struct layout layout_otp_29_x86_64_emu;

#endif
