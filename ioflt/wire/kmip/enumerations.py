"""KMIP's enumerations and bit masks: numbers ↔ names as the XML profile spells them.

Of versions 1.0 to 2.1. A number without a name is legal everywhere: servers have extensions (0x8…).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import IntEnum
from typing import Final


class Operation(IntEnum):
    """Those whose payloads are typed, and POLL, whose answer is that of another operation."""

    CREATE = 1
    RE_KEY = 4
    LOCATE = 8
    GET = 10
    GET_ATTRIBUTES = 11
    ADD_ATTRIBUTE = 13
    MODIFY_ATTRIBUTE = 14
    ACTIVATE = 18
    REVOKE = 19
    DESTROY = 20
    QUERY = 24
    POLL = 26
    DISCOVER_VERSIONS = 30


class ResultStatus(IntEnum):
    """How an operation went."""

    SUCCESS = 0
    OPERATION_FAILED = 1
    OPERATION_PENDING = 2
    OPERATION_UNDONE = 3


class ResultReason(IntEnum):
    """Those that the client tells apart."""

    ITEM_NOT_FOUND = 1
    RESPONSE_TOO_LARGE = 2
    AUTHENTICATION_NOT_SUCCESSFUL = 3
    INVALID_MESSAGE = 4
    OPERATION_NOT_SUPPORTED = 5
    MISSING_DATA = 6
    INVALID_FIELD = 7
    FEATURE_NOT_SUPPORTED = 8
    ILLEGAL_OPERATION = 11
    PERMISSION_DENIED = 12
    OBJECT_ARCHIVED = 13
    KEY_VALUE_NOT_PRESENT = 19
    SENSITIVE = 22
    NOT_EXTRACTABLE = 23
    GENERAL_FAILURE = 256
    OBJECT_DESTROYED = 54
    OBJECT_NOT_FOUND = 55
    WRONG_KEY_LIFECYCLE_STATE = 67


class ObjectType(IntEnum):
    """Kinds of managed objects."""

    SYMMETRIC_KEY = 2
    SECRET_DATA = 7


class State(IntEnum):
    """States of a key, in the words of vSphere too."""

    PRE_ACTIVE = 1
    ACTIVE = 2
    DEACTIVATED = 3
    COMPROMISED = 4
    DESTROYED = 5
    DESTROYED_COMPROMISED = 6


class RevocationReasonCode(IntEnum):
    """Why a key is revoked."""

    UNSPECIFIED = 1
    KEY_COMPROMISE = 2
    CA_COMPROMISE = 3
    AFFILIATION_CHANGED = 4
    SUPERSEDED = 5
    CESSATION_OF_OPERATION = 6
    PRIVILEGE_WITHDRAWN = 7


class CryptographicAlgorithm(IntEnum):
    """That of the keys that are made."""

    AES = 3


class CryptographicUsageMask(IntEnum):
    """Bits of what a key may be used for."""

    ENCRYPT = 4
    DECRYPT = 8


class KeyFormatType(IntEnum):
    """Forms of key material."""

    RAW = 1
    OPAQUE = 2
    TRANSPARENT_SYMMETRIC_KEY = 7


class QueryFunction(IntEnum):
    """What a server is asked about itself."""

    QUERY_OPERATIONS = 1
    QUERY_SERVER_INFORMATION = 3


class WrappingMethod(IntEnum):
    """How a key is wrapped."""

    ENCRYPT = 1


class BlockCipherMode(IntEnum):
    """Modes that wrap."""

    AES_KEY_WRAP_PADDING = 12
    NIST_KEY_WRAP = 13


class EncodingOption(IntEnum):
    """What is wrapped: the material, or the KeyValue around it."""

    NO_ENCODING = 1
    TTLV_ENCODING = 2


class BatchErrorContinuationOption(IntEnum):
    """What becomes of the items after one that failed."""

    CONTINUE = 1
    STOP = 2
    UNDO = 3


#: Names in the order of their numbers, from 1, or from the number at the front (decimal).
_SEQUENCES: Final = {
    "AdjustmentType": "Increment Decrement Negate",
    "AlternativeNameType": """
        UninterpretedTextString URI ObjectSerialNumber EmailAddress DNSName X500DistinguishedName
        IPAddress
    """,
    "AsynchronousIndicator": "Mandatory Optional Prohibited",
    "AttestationType": "TPMQuote TCGIntegrityReport SAMLAssertion",
    "BatchErrorContinuationOption": "Continue Stop Undo",
    "BlockCipherMode": """
        CBC ECB PCBC CFB OFB CTR CMAC CCM GCM CBC_MAC XTS AESKeyWrapPadding NISTKeyWrap X9_102AESKW
        X9_102TDKW X9_102AKW1 X9_102AKW2 AEAD
    """,
    "CancellationResult": "Canceled UnableToCancel Completed Failed Unavailable",
    "CertificateRequestType": "CRMF PKCS_10 PEM PGP",
    "CertificateType": "X_509 PGP",
    "ClientRegistrationMethod": """
        Unspecified ServerPregenerated ServerOnDemand ClientGenerated ClientRegistered
    """,
    "CredentialType": "UsernameAndPassword Device Attestation OneTimePassword HashedPassword Ticket",
    "CryptographicAlgorithm": """
        DES DES3 AES RSA DSA ECDSA HMAC_SHA1 HMAC_SHA224 HMAC_SHA256 HMAC_SHA384 HMAC_SHA512 HMAC_MD5
        DH ECDH ECMQV Blowfish Camellia CAST5 IDEA MARS RC2 RC4 RC5 SKIPJACK Twofish EC OneTimePad
        ChaCha20 Poly1305 ChaCha20Poly1305 SHA3_224 SHA3_256 SHA3_384 SHA3_512 HMAC_SHA3_224
        HMAC_SHA3_256 HMAC_SHA3_384 HMAC_SHA3_512 SHAKE_128 SHAKE_256 ARIA SEED SM2 SM3 SM4
        GOSTR34_10_2012 GOSTR34_11_2012 GOSTR34_13_2015 GOST28147_89 XMSS SPHINCS_256 McEliece
        McEliece_6960119 McEliece_8192128 Ed25519 Ed448
    """,
    "DRBGAlgorithm": "Unspecified Dual_EC Hash HMAC CTR",
    "Data": "Decrypt Encrypt Hash MACMACData RNGRetrieve SignSignatureData SignatureVerify",
    "DerivationMethod": """
        PBKDF2 HASH HMAC ENCRYPT NIST800_108_C NIST800_108_F NIST800_108_DPI Asymmetric_Key
        AWSSignatureVersion4 HKDF
    """,
    "DestroyAction": """
        Unspecified KeyMaterialDeleted KeyMaterialShredded MetadataDeleted MetadataShredded Deleted
        Shredded
    """,
    "DigitalSignatureAlgorithm": """
        MD2WithRSAEncryption MD5WithRSAEncryption SHA_1WithRSAEncryption SHA_224WithRSAEncryption
        SHA_256WithRSAEncryption SHA_384WithRSAEncryption SHA_512WithRSAEncryption RSASSA_PSS
        DSAWithSHA_1 DSAWithSHA224 DSAWithSHA256 ECDSAWithSHA_1 ECDSAWithSHA224 ECDSAWithSHA256
        ECDSAWithSHA384 ECDSAWithSHA512 SHA3_256WithRSAEncryption SHA3_384WithRSAEncryption
        SHA3_512WithRSAEncryption
    """,
    "EncodingOption": "NoEncoding TTLVEncoding",
    "EndpointRole": "Client Server",
    "FIPS186Variation": """
        Unspecified GpXOriginal GpXChangeNotice XOriginal XChangeNotice KOriginal KChangeNotice
    """,
    "HashingAlgorithm": """
        MD2 MD4 MD5 SHA_1 SHA_224 SHA_256 SHA_384 SHA_512 RIPEMD_160 Tiger Whirlpool SHA_512_224
        SHA_512_256 SHA_3_224 SHA_3_256 SHA_3_384 SHA_3_512
    """,
    "InteropFunction": "Begin End Reset",
    "ItemType": """
        Structure Integer LongInteger BigInteger Enumeration Boolean TextString ByteString DateTime
        Interval DateTimeExtended
    """,
    "KeyCompressionType": """
        ECPublicKeyTypeUncompressed ECPublicKeyTypeX9_62CompressedPrime
        ECPublicKeyTypeX9_62CompressedChar2 ECPublicKeyTypeX9_62Hybrid
    """,
    "KeyFormatType": """
        Raw Opaque PKCS_1 PKCS_8 X_509 ECPrivateKey TransparentSymmetricKey TransparentDSAPrivateKey
        TransparentDSAPublicKey TransparentRSAPrivateKey TransparentRSAPublicKey
        TransparentDHPrivateKey TransparentDHPublicKey TransparentECDSAPrivateKey
        TransparentECDSAPublicKey TransparentECDHPrivateKey TransparentECDHPublicKey
        TransparentECMQVPrivateKey TransparentECMQVPublicKey TransparentECPrivateKey
        TransparentECPublicKey PKCS_12
    """,
    "KeyRoleType": """
        BDK CVK DEK MKAC MKSMC MKSMI MKDAC MKDN MKCP MKOTH KEK MAC16609 MAC97971 MAC97972 MAC97973
        MAC97974 MAC97975 ZPK PVKIBM PVKPVV PVKOTH DUKPT IV TRKBK
    """,
    "KeyValueLocationType": "UninterpretedTextString URI",
    "KeyWrapType": "NotWrapped AsRegistered",
    "LinkType": """
        257 CertificateLink PublicKeyLink PrivateKeyLink DerivationBaseObjectLink DerivedKeyLink
        ReplacementObjectLink ReplacedObjectLink ParentLink ChildLink PreviousLink NextLink
        PKCS_12CertificateLink PKCS_12PasswordLink WrappingKeyLink
    """,
    "MaskGenerator": "MGF1",
    "NISTKeyType": """
        PrivateSignatureKey PublicSignatureVerificationKey SymmetricAuthenticationKey
        PrivateAuthenticationKey PublicAuthenticationKey SymmetricDataEncryptionKey
        SymmetricKeyWrappingKey SymmetricRandomNumberGenerationKey SymmetricMasterKey
        PrivateKeyTransportKey PublicKeyTransportKey SymmetricKeyAgreementKey
        PrivateStaticKeyAgreementKey PublicStaticKeyAgreementKey PrivateEphemeralKeyAgreementKey
        PublicEphemeralKeyAgreementKey SymmetricAuthorizationKey PrivateAuthorizationKey
        PublicAuthorizationKey
    """,
    "NameType": "UninterpretedTextString URI",
    "ObjectGroupMember": "GroupMemberFresh GroupMemberDefault",
    "ObjectType": """
        Certificate SymmetricKey PublicKey PrivateKey SplitKey Template SecretData OpaqueObject PGPKey
        CertificateRequest
    """,
    "OpaqueDataType": "2147483648 None",
    "Operation": """
        Create CreateKeyPair Register ReKey DeriveKey Certify ReCertify Locate Check Get GetAttributes
        GetAttributeList AddAttribute ModifyAttribute DeleteAttribute ObtainLease GetUsageAllocation
        Activate Revoke Destroy Archive Recover Validate Query Cancel Poll Notify Put ReKeyKeyPair
        DiscoverVersions Encrypt Decrypt Sign SignatureVerify MAC MACVerify RNGRetrieve RNGSeed Hash
        CreateSplitKey JoinSplitKey Import Export Log Login Logout DelegatedLogin AdjustAttribute
        SetAttribute SetEndpointRole PKCS_11 Interop ReProvision SetDefaults SetConstraints
        GetConstraints QueryAsynchronousRequests Process Ping
    """,
    "PKCS_11Function": """
        C_Initialize C_Finalize C_GetInfo C_GetFunctionList C_GetSlotList C_GetSlotInfo C_GetTokenInfo
        C_GetMechanismList C_GetMechanismInfo C_InitToken C_InitPIN C_SetPIN C_OpenSession C_CloseSession
        C_CloseAllSessions C_GetSessionInfo C_GetOperationState C_SetOperationState C_Login C_Logout
        C_CreateObject C_CopyObject C_DestroyObject C_GetObjectSize C_GetAttributeValue C_SetAttributeValue
        C_FindObjectsInit C_FindObjects C_FindObjectsFinal C_EncryptInit C_Encrypt C_EncryptUpdate
        C_EncryptFinal C_DecryptInit C_Decrypt C_DecryptUpdate C_DecryptFinal C_DigestInit C_Digest
        C_DigestUpdate C_DigestKey C_DigestFinal C_SignInit C_Sign C_SignUpdate C_SignFinal C_SignRecoverInit
        C_SignRecover C_VerifyInit C_Verify C_VerifyUpdate C_VerifyFinal C_VerifyRecoverInit C_VerifyRecover
        C_DigestEncryptUpdate C_DecryptDigestUpdate C_SignEncryptUpdate C_DecryptVerifyUpdate C_GenerateKey
        C_GenerateKeyPair C_WrapKey C_UnwrapKey C_DeriveKey C_SeedRandom C_GenerateRandom
        C_GetFunctionStatus C_CancelFunction C_WaitForSlotEvent
    """,
    "PKCS_11ReturnCode": "0 OK",
    "PaddingMethod": "None OAEP PKCS5 SSL3 Zeros ANSIX9_23 ISO10126 PKCS1V1_5 X9_31 PSS",
    "ProcessingStage": "Submitted InProcess Completed",
    "ProfileName": """
        BaselineServerBasicKMIPV1_2 BaselineServerTLSV1_2KMIPV1_2 BaselineClientBasicKMIPV1_2
        BaselineClientTLSV1_2KMIPV1_2 CompleteServerBasicKMIPV1_2 CompleteServerTLSV1_2KMIPV1_2
        TapeLibraryClientKMIPV1_0 TapeLibraryClientKMIPV1_1 TapeLibraryClientKMIPV1_2
        TapeLibraryServerKMIPV1_0 TapeLibraryServerKMIPV1_1 TapeLibraryServerKMIPV1_2
        SymmetricKeyLifecycleClientKMIPV1_0 SymmetricKeyLifecycleClientKMIPV1_1
        SymmetricKeyLifecycleClientKMIPV1_2 SymmetricKeyLifecycleServerKMIPV1_0
        SymmetricKeyLifecycleServerKMIPV1_1 SymmetricKeyLifecycleServerKMIPV1_2
        AsymmetricKeyLifecycleClientKMIPV1_0 AsymmetricKeyLifecycleClientKMIPV1_1
        AsymmetricKeyLifecycleClientKMIPV1_2 AsymmetricKeyLifecycleServerKMIPV1_0
        AsymmetricKeyLifecycleServerKMIPV1_1 AsymmetricKeyLifecycleServerKMIPV1_2
        BasicCryptographicClientKMIPV1_2 BasicCryptographicServerKMIPV1_2
        AdvancedCryptographicClientKMIPV1_2 AdvancedCryptographicServerKMIPV1_2
        RNGCryptographicClientKMIPV1_2 RNGCryptographicServerKMIPV1_2
        BasicSymmetricKeyFoundryClientKMIPV1_0 IntermediateSymmetricKeyFoundryClientKMIPV1_0
        AdvancedSymmetricKeyFoundryClientKMIPV1_0 BasicSymmetricKeyFoundryClientKMIPV1_1
        IntermediateSymmetricKeyFoundryClientKMIPV1_1 AdvancedSymmetricKeyFoundryClientKMIPV1_1
        BasicSymmetricKeyFoundryClientKMIPV1_2 IntermediateSymmetricKeyFoundryClientKMIPV1_2
        AdvancedSymmetricKeyFoundryClientKMIPV1_2 SymmetricKeyFoundryServerKMIPV1_0
        SymmetricKeyFoundryServerKMIPV1_1 SymmetricKeyFoundryServerKMIPV1_2
        OpaqueManagedObjectStoreClientKMIPV1_0 OpaqueManagedObjectStoreClientKMIPV1_1
        OpaqueManagedObjectStoreClientKMIPV1_2 OpaqueManagedObjectStoreServerKMIPV1_0
        OpaqueManagedObjectStoreServerKMIPV1_1 OpaqueManagedObjectStoreServerKMIPV1_2
        SuiteBMinlos128ClientKMIPV1_0 SuiteBMinlos128ClientKMIPV1_1 SuiteBMinlos128ClientKMIPV1_2
        SuiteBMinlos128ServerKMIPV1_0 SuiteBMinlos128ServerKMIPV1_1 SuiteBMinlos128ServerKMIPV1_2
        SuiteBMinlos192ClientKMIPV1_0 SuiteBMinlos192ClientKMIPV1_1 SuiteBMinlos192ClientKMIPV1_2
        SuiteBMinlos192ServerKMIPV1_0 SuiteBMinlos192ServerKMIPV1_1 SuiteBMinlos192ServerKMIPV1_2
        StorageArrayWithSelfEncryptingDriveClientKMIPV1_0
        StorageArrayWithSelfEncryptingDriveClientKMIPV1_1
        StorageArrayWithSelfEncryptingDriveClientKMIPV1_2
        StorageArrayWithSelfEncryptingDriveServerKMIPV1_0
        StorageArrayWithSelfEncryptingDriveServerKMIPV1_1
        StorageArrayWithSelfEncryptingDriveServerKMIPV1_2 HTTPSClientKMIPV1_0 HTTPSClientKMIPV1_1
        HTTPSClientKMIPV1_2 HTTPSServerKMIPV1_0 HTTPSServerKMIPV1_1 HTTPSServerKMIPV1_2
        JSONClientKMIPV1_0 JSONClientKMIPV1_1 JSONClientKMIPV1_2 JSONServerKMIPV1_0 JSONServerKMIPV1_1
        JSONServerKMIPV1_2 XMLClientKMIPV1_0 XMLClientKMIPV1_1 XMLClientKMIPV1_2 XMLServerKMIPV1_0
        XMLServerKMIPV1_1 XMLServerKMIPV1_2 BaselineServerBasicKMIPV1_3 BaselineServerTLSV1_2KMIPV1_3
        BaselineClientBasicKMIPV1_3 BaselineClientTLSV1_2KMIPV1_3 CompleteServerBasicKMIPV1_3
        CompleteServerTLSV1_2KMIPV1_3 TapeLibraryClientKMIPV1_3 TapeLibraryServerKMIPV1_3
        SymmetricKeyLifecycleClientKMIPV1_3 SymmetricKeyLifecycleServerKMIPV1_3
        AsymmetricKeyLifecycleClientKMIPV1_3 AsymmetricKeyLifecycleServerKMIPV1_3
        BasicCryptographicClientKMIPV1_3 BasicCryptographicServerKMIPV1_3
        AdvancedCryptographicClientKMIPV1_3 AdvancedCryptographicServerKMIPV1_3
        RNGCryptographicClientKMIPV1_3 RNGCryptographicServerKMIPV1_3
        BasicSymmetricKeyFoundryClientKMIPV1_3 IntermediateSymmetricKeyFoundryClientKMIPV1_3
        AdvancedSymmetricKeyFoundryClientKMIPV1_3 SymmetricKeyFoundryServerKMIPV1_3
        OpaqueManagedObjectStoreClientKMIPV1_3 OpaqueManagedObjectStoreServerKMIPV1_3
        SuiteBMinlos128ClientKMIPV1_3 SuiteBMinlos128ServerKMIPV1_3 SuiteBMinlos192ClientKMIPV1_3
        SuiteBMinlos192ServerKMIPV1_3 StorageArrayWithSelfEncryptingDriveClientKMIPV1_3
        StorageArrayWithSelfEncryptingDriveServerKMIPV1_3 HTTPSClientKMIPV1_3 HTTPSServerKMIPV1_3
        JSONClientKMIPV1_3 JSONServerKMIPV1_3 XMLClientKMIPV1_3 XMLServerKMIPV1_3
        BaselineServerBasicKMIPV1_4 BaselineServerTLSV1_2KMIPV1_4 BaselineClientBasicKMIPV1_4
        BaselineClientTLSV1_2KMIPV1_4 CompleteServerBasicKMIPV1_4 CompleteServerTLSV1_2KMIPV1_4
        TapeLibraryClientKMIPV1_4 TapeLibraryServerKMIPV1_4 SymmetricKeyLifecycleClientKMIPV1_4
        SymmetricKeyLifecycleServerKMIPV1_4 AsymmetricKeyLifecycleClientKMIPV1_4
        AsymmetricKeyLifecycleServerKMIPV1_4 BasicCryptographicClientKMIPV1_4
        BasicCryptographicServerKMIPV1_4 AdvancedCryptographicClientKMIPV1_4
        AdvancedCryptographicServerKMIPV1_4 RNGCryptographicClientKMIPV1_4
        RNGCryptographicServerKMIPV1_4 BasicSymmetricKeyFoundryClientKMIPV1_4
        IntermediateSymmetricKeyFoundryClientKMIPV1_4 AdvancedSymmetricKeyFoundryClientKMIPV1_4
        SymmetricKeyFoundryServerKMIPV1_4 OpaqueManagedObjectStoreClientKMIPV1_4
        OpaqueManagedObjectStoreServerKMIPV1_4 SuiteBMinlos128ClientKMIPV1_4
        SuiteBMinlos128ServerKMIPV1_4 SuiteBMinlos192ClientKMIPV1_4 SuiteBMinlos192ServerKMIPV1_4
        StorageArrayWithSelfEncryptingDriveClientKMIPV1_4
        StorageArrayWithSelfEncryptingDriveServerKMIPV1_4 HTTPSClientKMIPV1_4 HTTPSServerKMIPV1_4
        JSONClientKMIPV1_4 JSONServerKMIPV1_4 XMLClientKMIPV1_4 XMLServerKMIPV1_4 260
        CompleteServerBasic CompleteServerTLSV1_2 TapeLibraryClient TapeLibraryServer
        SymmetricKeyLifecycleClient SymmetricKeyLifecycleServer AsymmetricKeyLifecycleClient
        AsymmetricKeyLifecycleServer BasicCryptographicClient BasicCryptographicServer
        AdvancedCryptographicClient AdvancedCryptographicServer RNGCryptographicClient
        RNGCryptographicServer BasicSymmetricKeyFoundryClient IntermediateSymmetricKeyFoundryClient
        AdvancedSymmetricKeyFoundryClient SymmetricKeyFoundryServer OpaqueManagedObjectStoreClient
        OpaqueManagedObjectStoreServer SuiteBMinlos128Client SuiteBMinlos128Server
        SuiteBMinlos192Client SuiteBMinlos192Server StorageArrayWithSelfEncryptingDriveClient
        StorageArrayWithSelfEncryptingDriveServer HTTPSClient HTTPSServer JSONClient JSONServer
        XMLClient XMLServer AESXTSClient AESXTSServer QuantumSafeClient QuantumSafeServer
        PKCS_11Client PKCS_11Server BaselineClient BaselineServer CompleteServer
    """,
    "ProtectionLevel": "High Low",
    "PutFunction": "New Replace",
    "QueryFunction": """
        QueryOperations QueryObjects QueryServerInformation QueryApplicationNamespaces
        QueryExtensionList QueryExtensionMap QueryAttestationTypes QueryRNGs QueryValidations
        QueryProfiles QueryCapabilities QueryClientRegistrationMethods QueryDefaultsInformation
        QueryStorageProtectionMasks
    """,
    "RNGAlgorithm": "Unspecified FIPS186_2 DRBG NRBG ANSIX9_31 ANSIX9_62",
    "RNGMode": "Unspecified SharedInstantiation NonSharedInstantiation",
    "RecommendedCurve": """
        P_192 K_163 B_163 P_224 K_233 B_233 P_256 K_283 B_283 P_384 K_409 B_409 P_521 K_571 B_571
        SECP112R1 SECP112R2 SECP128R1 SECP128R2 SECP160K1 SECP160R1 SECP160R2 SECP191K1 SECP224K1
        SECP256K1 SECT113R1 SECT113R2 SECT131R1 SECT131R2 SECT163R1 SECT193R1 SECT193R2 SECT239K1
        ANSIX9P192V2 ANSIX9P192V3 ANSIX9P239V1 ANSIX9P239V2 ANSIX9P239V3 ANSIX9C2PNB163V1
        ANSIX9C2PNB163V2 ANSIX9C2PNB163V3 ANSIX9C2PNB176V1 ANSIX9C2TNB191V1 ANSIX9C2TNB191V2
        ANSIX9C2TNB191V3 ANSIX9C2PNB208W1 ANSIX9C2TNB239V1 ANSIX9C2TNB239V2 ANSIX9C2TNB239V3
        ANSIX9C2PNB272W1 ANSIX9C2PNB304W1 ANSIX9C2TNB359V1 ANSIX9C2PNB368W1 ANSIX9C2TNB431R1
        BRAINPOOLP160R1 BRAINPOOLP160T1 BRAINPOOLP192R1 BRAINPOOLP192T1 BRAINPOOLP224R1
        BRAINPOOLP224T1 BRAINPOOLP256R1 BRAINPOOLP256T1 BRAINPOOLP320R1 BRAINPOOLP320T1
        BRAINPOOLP384R1 BRAINPOOLP384T1 BRAINPOOLP512R1 BRAINPOOLP512T1 CURVE25519 CURVE448
    """,
    "ResultReason": """
        ItemNotFound ResponseTooLarge AuthenticationNotSuccessful InvalidMessage OperationNotSupported
        MissingData InvalidField FeatureNotSupported OperationCanceledByRequester CryptographicFailure
        IllegalOperation PermissionDenied ObjectArchived IndexOutOfBounds
        ApplicationNamespaceNotSupported KeyFormatTypeNotSupported KeyCompressionTypeNotSupported
        EncodingOptionError KeyValueNotPresent AttestationRequired AttestationFailed Sensitive
        NotExtractable ObjectAlreadyExists InvalidTicket UsageLimitExceeded NumericRange
        InvalidDataType ReadOnlyAttribute MultiValuedAttribute UnsupportedAttribute
        AttributeInstanceNotFound AttributeNotFound AttributeReadOnly AttributeSingleValued
        BadCryptographicParameters BadPassword CodecError 40 IllegalObjectType
        IncompatibleCryptographicUsageMask InternalServerError InvalidAsynchronousCorrelationValue
        InvalidAttribute InvalidAttributeValue InvalidCorrelationValue InvalidCSR InvalidObjectType 50
        KeyWrapTypeNotSupported 52 MissingInitializationVector NonUniqueNameAttribute ObjectDestroyed
        ObjectNotFound 57 NotAuthorised ServerLimitExceeded UnknownEnumeration UnknownMessageExtension
        UnknownTag UnsupportedCryptographicParameters UnsupportedProtocolVersion
        WrappingObjectArchived WrappingObjectDestroyed WrappingObjectNotFound WrongKeyLifecycleState
        ProtectionStorageUnavailable PKCS_11CodecError PKCS_11InvalidFunction PKCS_11InvalidInterface
        256 GeneralFailure
    """,
    "ResultStatus": "0 Success OperationFailed OperationPending OperationUndone",
    "RevocationReasonCode": """
        Unspecified KeyCompromise CACompromise AffiliationChanged Superseded CessationOfOperation
        PrivilegeWithdrawn
    """,
    "RotateNameType": "UninterpretedTextString URI",
    "SecretDataType": "Password Seed",
    "ShreddingAlgorithm": "Unspecified Cryptographic Unsupported",
    "SplitKeyMethod": "XOR PolynomialSharingGF2_16 PolynomialSharingPrimeField PolynomialSharingGF2_8",
    "State": "PreActive Active Deactivated Compromised Destroyed DestroyedCompromised",
    "TicketType": "Login",
    "UniqueIdentifier": """
        IDPlaceholder Certify Create CreateKeyPair CreateKeyPairPrivateKey CreateKeyPairPublicKey
        CreateSplitKey DeriveKey Import JoinSplitKey Locate Register ReKey ReCertify ReKeyKeyPair
        ReKeyKeyPairPrivateKey ReKeyKeyPairPublicKey
    """,
    "UnwrapMode": "Unspecified Processed NotProcessed",
    "UsageLimitsUnit": "Byte Object",
    "ValidationAuthorityType": "Unspecified NISTCMVP CommonCriteria",
    "ValidationType": "Unspecified Hardware Software Firmware Hybrid",
    "ValidityIndicator": "Valid Invalid Unknown",
    "WrappingMethod": "Encrypt MACSign EncryptThenMACSign MACSignThenEncrypt TR_31",
}

#: Names in the order of their bits, from the lowest.
_MASKS: Final = {
    "CryptographicUsageMask": """
        Sign Verify Encrypt Decrypt WrapKey UnwrapKey Export MACGenerate MACVerify DeriveKey
        ContentCommitment KeyAgreement CertificateSign CRLSign GenerateCryptogram ValidateCryptogram
        TranslateEncrypt TranslateDecrypt TranslateWrap TranslateUnwrap Authenticate Unrestricted
        FPEEncrypt FPEDecrypt
    """,
    "ProtectionStorageMask": """
        Software Hardware OnProcessor OnSystem OffSystem Hypervisor OperatingSystem Container
        OnPremises OffPremises SelfManaged Outsourced Validated SameJurisdiction
    """,
    "StorageStatusMask": "OnlineStorage ArchivalStorage DestroyedStorage",
}

#: Tags whose values are those of another enumeration.
_ALIASES: Final = {
    "MaskGeneratorHashingAlgorithm": "HashingAlgorithm",
    "ExtensionType": "ItemType",
}

#: Other spellings in use.
_SPELLINGS: Final = {
    "CryptographicAlgorithm": {"3des": 2, "tripledes": 2},
    "ObjectType": {"opaquedata": 8},
    "ResultReason": {"objectarchived": 13},
}


def _numbered(names: str) -> dict[int, str]:
    found: dict[int, str] = {}
    number = 1
    for word in names.split():
        if word.isdigit():
            number = int(word)
        else:
            found[number] = word
            number += 1
    return found


def fold(name: str) -> str:
    """A name without what people spell differently: case, spaces, underscores, signs."""
    return re.sub(r"[^0-9a-z]", "", name.lower())


#: By tag name: number → name.
ENUMERATIONS: Final[Mapping[str, Mapping[int, str]]] = {
    tag: _numbered(names) for tag, names in _SEQUENCES.items()
}

#: By tag name: bit → name.
MASKS: Final[Mapping[str, Mapping[int, str]]] = {
    tag: {1 << bit: name for bit, name in enumerate(names.split())} for tag, names in _MASKS.items()
}

_BY_NAME: Final = {
    fold(tag): {fold(name): number for number, name in table.items()} | _SPELLINGS.get(tag, {})
    for tag, table in (*ENUMERATIONS.items(), *MASKS.items())
}


def number_of(tag: str, name: str) -> int | None:
    """The number of a name of the enumeration or mask that the tag (or attribute) has."""
    return _BY_NAME.get(fold(_ALIASES.get(tag, tag)), {}).get(fold(name))


def name_of(tag: str, number: int) -> str | None:
    """The name of a number."""
    return ENUMERATIONS.get(_ALIASES.get(tag, tag), {}).get(number)
